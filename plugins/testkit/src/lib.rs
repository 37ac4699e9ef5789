//! Conformance suite for compression methods: what every method must do, whatever it computes.
//!
//! ```
//! # compress_sdk::score_weights! { name: "mine", meaning: "m", citation: "c", equation: "e", |w| w.abs() }
//! # fn main() {
//! compress_testkit::conformance(&ENTRY); // in a test of the method's crate
//! # }
//! ```
//!
//! A method that came another way (from a library, from a program) is tested through [`Subject`].

use std::sync::Arc;

use compress_sdk::caller::{self, Caller, Deaf, Failure, MethodCard};
use compress_sdk::{Encoded, Entry, Evidence, Keep, Options, Part};

mod encodings;
mod inputs;
mod options;
mod scores;

/// A method under test.
pub trait Subject: Sync {
    /// What it says of itself.
    fn card(&self) -> &MethodCard;
    /// Its state for one stage. Options that the CARD does not allow must be refused.
    fn create(&self, options: &Options, seed: u64) -> Result<Box<dyn Instance>, Failure>;
}

/// A method's state under test. Hosts check every call by [`compress_sdk::contract`].
pub trait Instance: Send + Sync {
    /// Writes a score for each weight.
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<(), Failure>;
    /// Encodes a part.
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded, Failure>;
}

impl Subject for Caller {
    fn card(&self) -> &MethodCard {
        Caller::card(self)
    }

    fn create(&self, options: &Options, seed: u64) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(Caller::create(self, options, seed, Arc::new(Deaf))?))
    }
}

impl Instance for caller::Instance {
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<(), Failure> {
        caller::Instance::score(self, part, evidence, out)
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded, Failure> {
        caller::Instance::encode(self, part, keep, evidence)
    }
}

/// Tests the method of an entry.
///
/// # Panics
/// With all that is wrong, a line each.
pub fn conformance(entry: &'static Entry) {
    match Caller::linked(entry) {
        Ok(method) => conformance_of(&method),
        Err(refused) => panic!("the method is refused: {refused}"),
    }
}

/// Tests a method.
///
/// # Panics
/// With all that is wrong, a line each.
pub fn conformance_of(subject: &dyn Subject) {
    let wrong = complaints(subject);
    assert!(wrong.is_empty(), "method \"{}\" does not conform:\n- {}", subject.card().name, wrong.join("\n- "));
}

/// All that is wrong with a method, a sentence each.
pub fn complaints(subject: &dyn Subject) -> Vec<String> {
    let mut wrong = Complaints::default();
    let card = subject.card();
    if let Err(text) = card.check() {
        wrong.add(format_args!("{text}"));
    }
    options::check(subject, &mut wrong);
    if card.scores {
        scores::check(subject, &mut wrong);
    }
    if card.encodes {
        encodings::check(subject, &mut wrong);
    }
    wrong.0
}

#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    /// Adds a complaint; of many alike the first ones tell enough.
    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        if self.0.len() < 20 {
            self.0.push(text.to_string());
        }
    }

    /// The state with default options; a complaint where there is none.
    fn create(&mut self, subject: &dyn Subject, seed: u64) -> Option<Box<dyn Instance>> {
        let made = subject.create(&subject.card().defaults(), seed);
        made.map_err(|e| self.add(format_args!("with its default options it cannot be created: {e}"))).ok()
    }
}
