//! Factors a matrix of raw f32 (row-major) and says how long that took: for `bench/lowrank.py`.
//!
//!     speed FILE ROWS COLS RANK OUT
//!
//! Prints seconds of wall clock; OUT gets U and then V, row-major.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use compress_sdk::caller::{Caller, Deaf};
use compress_sdk::{Evidence, Keep, OptionValue, Part};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, rows, cols, rank, out] = &args[..] else { return Err("speed FILE ROWS COLS RANK OUT".into()) };
    let (rows, cols) = (rows.parse()?, cols.parse()?);
    let bytes = std::fs::read(file)?;
    let weights: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let method = Caller::linked(&compress_low_rank::ENTRY)?;
    let mut options = method.card().defaults();
    for (name, value) in &mut options.0 {
        if name == "rank" {
            *value = OptionValue::Integer(rank.parse()?);
        }
    }
    let instance = method.create(&options, 1, Arc::new(Deaf))?;
    let part = Part::whole("weight", rows, cols, &weights);
    let begin = Instant::now();
    let encoded = instance.encode(&part, Keep::All, &Evidence::default())?;
    println!("{}", begin.elapsed().as_secs_f64());
    let values = &encoded.encoding.terms[0].values;
    std::fs::write(out, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
