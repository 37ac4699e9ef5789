//! Retraining: by the engine, by a command, and in steps.

/// `retrain`.
#[derive(Clone, PartialEq, Debug)]
pub enum Retrain {
    /// By the engine.
    Engine(Training),
    /// By a command that reads {weights} and {mask} and writes {output}.
    Command {
        /// The command.
        command: Command,
        /// What to do when pruned weights come back non-zero.
        on_violation: OnViolation,
    },
}

/// Words of a command. Placeholders in them are those of [`Command::PLACEHOLDERS`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Program and arguments; never empty.
    pub words: Vec<String>,
}

/// What to do when a command returns weights that were pruned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnViolation {
    /// End the run.
    #[default]
    Error,
    /// Set them to zero again, and say so.
    Repair,
}

/// How the engine trains. What is absent is the engine's default.
#[derive(Clone, PartialEq, Debug)]
pub struct Training {
    /// Passes over the training data, at least 1.
    pub epochs: u32,
    /// Learning rate, above 0.
    pub rate: Option<f64>,
    /// How the rate falls.
    pub decay: Option<Decay>,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Momentum of sgd, from 0 to below 1.
    pub momentum: Option<f64>,
    /// Decoupled weight decay, a step, times the rate.
    pub weight_decay: Option<f64>,
    /// Examples a batch.
    pub batch: Option<u64>,
    /// Greatest norm of the gradient.
    pub clip: Option<f64>,
    /// Dropout put back between layers.
    pub dropout: Dropout,
    /// Epochs without a better validation loss before it stops.
    pub patience: Option<u32>,
}

/// How the learning rate falls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Decay {
    /// `decay = 0.5`: times this after each epoch.
    Factor(f64),
    /// `decay = "linear"`: to 0 in a straight line.
    Linear,
    /// `decay = "cosine"`: to 0 along half a cosine.
    Cosine,
}

/// An optimizer of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Optimizer {
    /// Adam.
    #[default]
    Adam,
    /// Stochastic gradient descent.
    Sgd,
}

impl Optimizer {
    /// All of them.
    pub const ALL: [Optimizer; 2] = [Optimizer::Adam, Optimizer::Sgd];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Optimizer::Adam => "adam",
            Optimizer::Sgd => "sgd",
        }
    }
}

/// Dropout during retraining.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Dropout {
    /// None.
    #[default]
    None,
    /// The same probability between all layers.
    Everywhere(f64),
    /// Globs of names or roles with their probabilities, in written order; the first that matches wins.
    ByName(Vec<(String, f64)>),
}

/// `schedule`: the amount is reached in steps, with a retraining after each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Steps, at least 1.
    pub steps: u32,
    /// How the amount grows over the steps.
    pub shape: ScheduleShape,
    /// Epochs of retraining after the last step, beside those of the step.
    pub recover: u32,
}

/// How the amount grows over the steps of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ScheduleShape {
    /// s(t) = s·t.
    Linear,
    /// s(t) = s·(1 − (1 − t)³), much at the beginning (Zhu & Gupta 2017).
    #[default]
    Cubic,
}

impl ScheduleShape {
    /// All of them.
    pub const ALL: [ScheduleShape; 2] = [ScheduleShape::Linear, ScheduleShape::Cubic];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            ScheduleShape::Linear => "linear",
            ScheduleShape::Cubic => "cubic",
        }
    }
}
