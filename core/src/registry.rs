//! The methods of a run, wherever they come from: linked into the program, loaded from a library, or programs of
//! their own. After registration nobody can tell them apart.
//!
//! Nothing is loaded or started that was not named by the caller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use compress_sdk::caller::Caller;
use compress_sdk::{Encoded, Entry, Evidence, Keep, Options, Part};

pub use compress_sdk::caller::{Deaf, Listener, MethodCard, OptionInfo, OptionKind};

use crate::error::{Error, Result, did_you_mean};

mod library;
mod linked;
mod options;
pub mod print;
mod process;
pub mod scaffold;
#[cfg(test)]
mod tests;

/// Where a method comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Linked into this program.
    BuiltIn,
    /// Loaded from this file.
    Library(PathBuf),
    /// A program, by the words of its command.
    Program(Vec<String>),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built-in"),
            Origin::Library(path) => write!(f, "\"{}\"", path.display()),
            Origin::Program(words) => write!(f, "\"{}\"", words.join(" ")),
        }
    }
}

/// The methods of a run by name.
pub struct Registry {
    methods: BTreeMap<String, Registered>,
    listener: Arc<dyn Listener>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl Registry {
    /// No methods.
    pub fn new() -> Registry {
        Registry { methods: BTreeMap::new(), listener: Arc::new(Deaf) }
    }

    /// Who hears what the methods say and tells them to stop. For methods that are added afterwards.
    #[must_use]
    pub fn listened(self, listener: Arc<dyn Listener>) -> Registry {
        Registry { listener, ..self }
    }

    /// Adds a method that is linked into this program.
    pub fn add_builtin(&mut self, entry: &'static Entry) -> Result<()> {
        let caller = Caller::linked(entry).map_err(|e| Error::usage(format!("a built-in method is refused: {e}")))?;
        self.add(caller.card().clone(), Origin::BuiltIn, Arc::new(linked::Linked::new(caller, &self.listener)))
    }

    /// Loads a library and adds all methods in it. The same file twice is the same as once.
    ///
    /// A loaded library is trusted: it runs with all rights of this process. It stays loaded.
    pub fn load_library(&mut self, path: &Path) -> Result<()> {
        let (path, callers) = library::load(path)?;
        let origin = Origin::Library(path);
        if self.methods.values().any(|m| m.origin == origin) {
            return Ok(());
        }
        for caller in callers {
            let maker = Arc::new(linked::Linked::new(caller.clone(), &self.listener));
            self.add(caller.card().clone(), origin.clone(), maker)?;
        }
        Ok(())
    }

    /// Adds a method that is a program: it is started here once to describe itself, and once for each stage. `cwd` is
    /// its working folder (the recipe's), `timeout` how long it may be silent.
    pub fn add_program(&mut self, name: &str, argv: &[String], cwd: &Path, timeout: Duration) -> Result<()> {
        let (card, program) = process::describe(name, argv, cwd, timeout, &self.listener)?;
        self.add(card, Origin::Program(argv.to_vec()), Arc::new(program))
    }

    fn add(&mut self, card: MethodCard, origin: Origin, maker: Arc<dyn Maker>) -> Result<()> {
        if let Some(other) = self.methods.get(&card.name) {
            return Err(Error::usage(format!(
                "two methods are called \"{}\": one is {}, one {origin}; leave one out or rename it",
                card.name, other.origin
            )));
        }
        self.methods.insert(card.name.clone(), Registered { card, origin, maker });
        Ok(())
    }

    /// The method of that name.
    pub fn get(&self, name: &str) -> Result<&Registered> {
        self.methods.get(name).ok_or_else(|| {
            let near = did_you_mean(name, self.methods.keys().map(String::as_str));
            Error::usage(format!("unknown method \"{name}\"{near}; \"compress methods\" lists them all"))
        })
    }

    /// All methods by name.
    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.methods.values()
    }
}

/// A method that can be used.
pub struct Registered {
    card: MethodCard,
    origin: Origin,
    maker: Arc<dyn Maker>,
}

impl Registered {
    /// What it says of itself.
    pub fn card(&self) -> &MethodCard {
        &self.card
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How errors name it: `method "obs"`, `method "mine" of "target/libmine.so"`.
    pub fn label(&self) -> String {
        match &self.origin {
            Origin::BuiltIn => format!("method \"{}\"", self.card.name),
            other => format!("method \"{}\" of {other}", self.card.name),
        }
    }

    /// Checks a stage's options against the CARD and fills in the defaults.
    pub fn check_options(&self, given: &toml::Table) -> Result<Options> {
        options::check(&self.card, given)
    }

    /// Makes the method's state for one stage.
    pub fn create(&self, options: &Options, seed: u64) -> Result<Box<dyn Instance>> {
        self.maker.make(self, options, seed)
    }
}

/// A method with its options and seed, for one stage. Its errors name the tensor and the method; the stage is for the
/// caller to add.
pub trait Instance: Send + Sync {
    /// Writes a score for each weight of the block, in the strides of the block: low = dispensable. That they are all
    /// finite is checked here.
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<()>;
    /// How many weights a call should have where the caller may choose. Fewer are right but slow: each call to a
    /// program costs two changes of process.
    fn block_weights(&self) -> usize {
        1
    }
    /// Encodes a whole part anew. That the result fits the part and `keep` is checked here.
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded>;
}

trait Maker: Send + Sync {
    fn make(&self, method: &Registered, options: &Options, seed: u64) -> Result<Box<dyn Instance>>;
}
