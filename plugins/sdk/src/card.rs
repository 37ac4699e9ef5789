//! What a method says of itself. Help, option checks and the README's table come from here and nowhere else.

/// The description of a method.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// The name that a recipe uses: lower case letters, digits and hyphens.
    pub name: &'static str,
    /// One line: what it does.
    pub meaning: &'static str,
    /// Authors, title, venue, year, arXiv number or DOI.
    pub citation: &'static str,
    /// The score or the approximation in plain Unicode.
    pub equation: &'static str,
    /// What it must see at once.
    pub reach: Reach,
    /// Whether it scores weights.
    pub scores: bool,
    /// Whether it encodes parts.
    pub encodes: bool,
    /// Whether it chooses within a quota itself (block-wise Optimal Brain Surgeon). It must then encode.
    pub selects: bool,
    /// In which units its scores are.
    pub units: Units,
    /// Whether its result depends on the seed.
    pub random: bool,
    /// Whether it may be called from several threads at once.
    pub thread_safe: bool,
    /// The evidence that it reads. Kinds that are not `required` are passed where they exist. A kind that is the value of
    /// one of the stage's options (`curvature = "fisher_diag"`) is required for that stage.
    pub evidence: &'static [(EvidenceKind, Need)],
    /// Its options.
    pub options: &'static [OptionSpec],
}

impl Card {
    /// To begin a CARD from: a method without options and evidence that scores each weight by itself, in units of its
    /// own. Name, meaning, citation and equation are empty and must be given.
    pub const SCORES_WEIGHTS: Card = Card {
        name: "",
        meaning: "",
        citation: "",
        equation: "",
        reach: Reach::Weight,
        scores: true,
        encodes: false,
        selects: false,
        units: Units::Other,
        random: false,
        thread_safe: true,
        evidence: &[],
        options: &[],
    };
    /// To begin a CARD from: a method without options and evidence that encodes whole parts.
    pub const ENCODES_PARTS: Card = Card { reach: Reach::Part, scores: false, encodes: true, ..Card::SCORES_WEIGHTS };
}

/// What a method must see at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Any slice of a part: each score depends on its own weight (and its own evidence) alone. Without evidence, and
    /// where the CARD does not say `random`, equal weights of a part have equal scores, and a host may ask for each
    /// value once.
    Weight,
    /// Blocks of whole rows.
    Row,
    /// The whole part.
    Part,
}

/// Units of a score. They decide how class-distribution normalises it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Units {
    /// Those of |w|: normalised by the standard deviation of the class's weights.
    Magnitude,
    /// Any other: normalised by the root mean square of the class's scores.
    Other,
}

/// Whether a kind of evidence can be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The stage is refused without it.
    Required,
    /// Passed where the evidence file has it.
    Optional,
    /// Of the kinds that are marked so, one must be there for each weight, or the stage is refused.
    OneOf,
}

/// The kinds of evidence, with the names used in evidence files (`<weight>.<kind>`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EvidenceKind {
    /// Mean squared gradient, the shape of the weight.
    FisherDiag,
    /// Diagonal of the Gauss–Newton matrix, the shape of the weight.
    HessianDiag,
    /// Mean outer product of the layer's inputs, `[k, k]` or `[groups, k, k]`, k = inputs in the part's column order.
    Gram,
    /// How often each row of an embedding was read, `[rows]`.
    RowCount,
}

impl EvidenceKind {
    /// All kinds.
    pub const ALL: [EvidenceKind; 4] =
        [EvidenceKind::FisherDiag, EvidenceKind::HessianDiag, EvidenceKind::Gram, EvidenceKind::RowCount];

    /// The name in evidence files and recipes.
    pub const fn name(self) -> &'static str {
        match self {
            EvidenceKind::FisherDiag => "fisher_diag",
            EvidenceKind::HessianDiag => "hessian_diag",
            EvidenceKind::Gram => "gram",
            EvidenceKind::RowCount => "row_count",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<EvidenceKind> {
        EvidenceKind::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// One option of a method.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// The key in the recipe.
    pub name: &'static str,
    /// What it means, with its unit.
    pub meaning: &'static str,
    /// Type, range and default.
    pub kind: OptionKind,
}

/// Type, range and default of an option. Both ends of a range are allowed values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum OptionKind {
    /// A whole number.
    Integer {
        /// Value where the recipe gives none.
        default: i64,
        /// Least allowed.
        min: i64,
        /// Greatest allowed.
        max: i64,
    },
    /// A finite number.
    Float {
        /// Value where the recipe gives none.
        default: f64,
        /// Least allowed.
        min: f64,
        /// Greatest allowed.
        max: f64,
    },
    /// True or false.
    Flag {
        /// Value where the recipe gives none.
        default: bool,
    },
    /// One of a list of words.
    Choice {
        /// Value where the recipe gives none.
        default: &'static str,
        /// The allowed words.
        choices: &'static [&'static str],
    },
    /// Any text.
    Text {
        /// Value where the recipe gives none.
        default: &'static str,
    },
}
