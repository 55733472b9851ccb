//! Nanoseconds of one arc and of four, with the generated engine in Rust.
#[path = "engine.rs"]
mod engine;

use engine::{Arc, Device, Effect, Engine, Failure, State};
use std::hint::black_box;
use std::time::Instant;

/// Many short ones: the best of them was not interrupted.
const ROUNDS: u32 = 2000;
const TURNS: u32 = 2000;

struct Nothing;

impl Device for Nothing {
    #[inline(never)]
    fn take(&mut self, arc: Arc, _: Option<u64>, _: Effect) -> Result<(), Failure> {
        black_box(arc);
        Ok(())
    }

    fn reset(&mut self, _: State) -> Result<(), Failure> {
        Ok(())
    }
}

#[inline(never)]
fn set_state(engine: &mut Engine<Nothing>, target: State) -> bool {
    engine.set_state(target.value()).is_ok()
}

/// The least of the rounds, in nanoseconds of one of the two requests in a turn.
fn measure(engine: &mut Engine<Nothing>, there: State, back: State) -> f64 {
    set_state(engine, back);
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..TURNS {
            black_box(set_state(engine, there));
            black_box(set_state(engine, back));
        }
        best = best.min(begun.elapsed().as_nanos() as f64 / f64::from(TURNS) / 2.0);
    }
    best
}

fn main() {
    let mut engine = match Engine::new(7, Nothing) {
        Ok(engine) => engine,
        Err(refusal) => panic!("{}", refusal.reason()),
    };
    println!("rust_one {:.2}", measure(&mut engine, State::RunningP2p, State::Running));
    println!("rust_four {:.2}", measure(&mut engine, State::Resuming, State::PreCopy));
}
