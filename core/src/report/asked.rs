//! What a stage asks for, as the report repeats it.

use serde_json::{Map, Value, json};

use crate::recipe::{Amounts, Decay, Dropout, Evaluate, Initialise, MethodStage, Retrain, Stage, StageKind, Training};

/// The stage as understood: what the recipe gives, and the defaults that matter. The plan adds counts.
pub fn asked(stage: &Stage) -> Map<String, Value> {
    let mut map = Map::new();
    match &stage.kind {
        StageKind::Method(m) => method(&mut map, m),
        StageKind::Measure(m) => {
            put(&mut map, "measure", m.kinds.iter().map(|k| k.name()).collect::<Vec<_>>());
            put(&mut map, "examples", m.examples);
            put(&mut map, "batch", m.batch);
        }
        StageKind::Retrain(r) => map = retrain(r),
        StageKind::Reinitialise(Initialise::Uniform(x)) => put(&mut map, "uniform", *x),
        StageKind::Reinitialise(Initialise::Normal(x)) => put(&mut map, "normal", *x),
        StageKind::Evaluate(Evaluate::Metrics(metrics)) => {
            put(&mut map, "metrics", metrics.iter().map(|m| m.name()).collect::<Vec<_>>());
        }
        StageKind::Evaluate(Evaluate::Command(command)) => put(&mut map, "command", command.words.clone()),
        StageKind::Encode(e) => {
            put(&mut map, "encode", e.layout.name());
            put(&mut map, "values", e.values.to_string());
            put(&mut map, "classes", e.classes.clone());
        }
    }
    if let Some(seed) = stage.seed {
        put(&mut map, "seed", seed);
    }
    map
}

fn put(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    map.insert(key.into(), value.into());
}

fn put_some<T: Into<Value>>(map: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        put(map, key, value);
    }
}

fn method(map: &mut Map<String, Value>, stage: &MethodStage) {
    put(map, "scheme", stage.scheme.name());
    match &stage.amount {
        Some(Amounts::All(amount)) => put(map, "amount", amount.to_json()),
        Some(Amounts::ByClass(entries)) => {
            let by_class: Map<_, _> = entries.iter().map(|(glob, amount)| (glob.clone(), amount.to_json())).collect();
            put(map, "amount", by_class);
        }
        None => {}
    }
    put(map, "pattern", stage.pattern.to_string());
    put(map, "classes", stage.classes.clone());
    if !stage.options.is_empty() {
        // Dates are the only thing that TOML has and JSON has not; they become strings.
        put(map, "options", stage.options.iter().map(|(k, v)| (k.clone(), from_toml(v))).collect::<Map<_, _>>());
    }
    if !stage.allow_empty.is_empty() {
        put(map, "allow_empty", stage.allow_empty.clone());
    }
    if let Some(s) = &stage.schedule {
        put(map, "schedule", json!({ "steps": s.steps, "shape": s.shape.name(), "recover": s.recover }));
    }
    put_some(map, "retrain", stage.retrain.as_ref().map(retrain));
    if stage.residual {
        put(map, "residual", true);
    }
}

fn retrain(retrain: &Retrain) -> Map<String, Value> {
    let mut map = Map::new();
    match retrain {
        Retrain::Command { command, on_violation } => {
            put(&mut map, "command", command.words.clone());
            put(&mut map, "on_violation", on_violation.name());
        }
        Retrain::Engine(training) => engine(&mut map, training),
    }
    map
}

fn engine(map: &mut Map<String, Value>, t: &Training) {
    match t.epochs as u32 {
        whole if f64::from(whole) == t.epochs => put(map, "epochs", whole),
        _ => put(map, "epochs", t.epochs),
    }
    put_some(map, "rate", t.rate);
    match t.decay {
        Some(Decay::Factor(x)) => put(map, "decay", x),
        Some(Decay::Linear) => put(map, "decay", "linear"),
        Some(Decay::Cosine) => put(map, "decay", "cosine"),
        None => {}
    }
    put_some(map, "warmup", (t.warmup > 0).then_some(t.warmup));
    put(map, "optimizer", t.optimizer.name());
    put_some(map, "momentum", t.momentum);
    put_some(map, "weight_decay", t.weight_decay);
    put_some(map, "batch", t.batch);
    put_some(map, "clip", t.clip);
    match &t.dropout {
        Dropout::None => {}
        Dropout::Everywhere(p) => put(map, "dropout", *p),
        Dropout::ByName(entries) => {
            put(map, "dropout", entries.iter().map(|(k, p)| (k.clone(), Value::from(*p))).collect::<Map<_, _>>());
        }
    }
    put_some(map, "patience", t.patience);
    if let Some(d) = &t.distil {
        let mut distil = Map::new();
        put(&mut distil, "weight", d.weight);
        put(&mut distil, "temperature", d.temperature);
        put_some(&mut distil, "teacher", d.teacher.as_ref().map(|p| p.display().to_string()));
        put(map, "distil", distil);
    }
}

/// A TOML value as JSON; a date becomes its text, a float that is not finite null.
pub(crate) fn from_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(n) => (*n).into(),
        toml::Value::Float(x) => (*x).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.iter().map(from_toml).collect(),
        toml::Value::Table(table) => table.iter().map(|(k, v)| (k.clone(), from_toml(v))).collect(),
    }
}
