"""What was found, as text, JUnit, SARIF and Promela, and replayed on the engine."""
