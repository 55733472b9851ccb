"""What every picture is made with: shapes, colours, SVG."""
