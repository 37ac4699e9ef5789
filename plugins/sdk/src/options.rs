//! The options of a stage, already checked against the method's CARD: every option of the CARD is there.

/// The value of one option.
#[derive(Clone, PartialEq, Debug)]
pub enum OptionValue {
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// A word of a Choice, or a Text.
    Text(String),
}

/// All options of the CARD with their values, in the CARD's order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options(pub Vec<(String, OptionValue)>);

impl Options {
    /// The value of an option of any type.
    pub fn get(&self, name: &str) -> Option<&OptionValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// An Integer option. Panics where the CARD has no such option: that is a mistake in the method.
    pub fn integer(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(OptionValue::Integer(v)) => *v,
            _ => panic!("the CARD has no integer option \"{name}\""),
        }
    }

    /// A Float option. Panics where the CARD has no such option.
    pub fn float(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(OptionValue::Float(v)) => *v,
            _ => panic!("the CARD has no float option \"{name}\""),
        }
    }

    /// A Flag option. Panics where the CARD has no such option.
    pub fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            Some(OptionValue::Flag(v)) => *v,
            _ => panic!("the CARD has no flag option \"{name}\""),
        }
    }

    /// A Choice or Text option. Panics where the CARD has no such option.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(OptionValue::Text(v)) => v,
            _ => panic!("the CARD has no text option \"{name}\""),
        }
    }
}
