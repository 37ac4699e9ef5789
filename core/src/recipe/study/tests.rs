use super::*;
use crate::recipe::{Amounts, StageKind};

fn study(text: &str) -> Result<Study> {
    Study::parse(text, Path::new("s/study.toml"))
}

const STUDY: &str = r#"
output = "study"
model = "m.onnx"
seed = 9

[data]
train = "t"
target = "y"
validation = "v"

[[candidate]]
name = "class-blind"
[[candidate.stage]]
method = "magnitude"
amount = "{amount}"
scheme = "{scheme}"
[[candidate.stage]]
retrain = { command = ["x", "{weights}"] }

[[candidate]]
name = "fixed"
[[candidate.stage]]
method = "random"
amount = "{amount}"

[[candidate]]
name = "int8"
[[candidate.stage]]
encode = "dense"
values = "int8"

[sweep]
amount = ["10%", 0.4, 80, { "*" = 1.0 }]
scheme = ["class-blind", "class-uniform"]

[repeat]
seeds = [3, 2]

[budget]
metric = "bleu"
loss = 0.3
"#;

#[test]
fn cells_are_crossed_in_order() {
    let study = study(STUDY).unwrap();
    assert_eq!(study.output, Path::new("s/study"));
    assert_eq!(study.budget, Some(Budget { metric: "bleu".into(), loss: 0.3 }));
    let random = |recipe: &Recipe| matches!(&recipe.stages[0].kind, StageKind::Method(m) if m.method == "random");
    let cells = study.cells(random).unwrap();
    let shown: Vec<_> = cells
        .iter()
        .map(|c| format!("{} {} {}", c.candidate, serde_json::Value::Object(c.sweep_json()), c.seed))
        .collect();
    assert_eq!(
        shown,
        [
            r#"class-blind {"amount":"10%","scheme":"class-blind"} 3"#,
            r#"class-blind {"amount":"10%","scheme":"class-uniform"} 3"#,
            r#"class-blind {"amount":0.4,"scheme":"class-blind"} 3"#,
            r#"class-blind {"amount":0.4,"scheme":"class-uniform"} 3"#,
            r#"class-blind {"amount":80,"scheme":"class-blind"} 3"#,
            r#"class-blind {"amount":80,"scheme":"class-uniform"} 3"#,
            r#"class-blind {"amount":{"*":1.0},"scheme":"class-blind"} 3"#,
            r#"class-blind {"amount":{"*":1.0},"scheme":"class-uniform"} 3"#,
            r#"fixed {"amount":"10%"} 3"#,
            r#"fixed {"amount":"10%"} 2"#,
            r#"fixed {"amount":0.4} 3"#,
            r#"fixed {"amount":0.4} 2"#,
            r#"fixed {"amount":80} 3"#,
            r#"fixed {"amount":80} 2"#,
            r#"fixed {"amount":{"*":1.0}} 3"#,
            r#"fixed {"amount":{"*":1.0}} 2"#,
            r#"int8 {} 3"#,
        ]
    );
    assert_eq!(cells[9].recipe.seed, 2);
    assert_eq!(cells[0].recipe.output, None);
    assert_eq!(cells[0].recipe.model.all(), [PathBuf::from("s/m.onnx")]);
    let StageKind::Method(stage) = &cells[6].recipe.stages[0].kind else { panic!() };
    assert!(matches!(&stage.amount, Some(Amounts::ByClass(entries)) if entries[0].1.to_string() == "1.0"));
}

#[test]
fn the_text_of_a_cell_is_its_recipe() {
    for cell in study(STUDY).unwrap().cells(|_| true).unwrap() {
        let again = Recipe::parse(&cell.recipe.text, &cell.recipe.path).unwrap();
        let text = |recipe: &Recipe| {
            let stages: Vec<_> = recipe.stages.iter().map(|s| format!("{:?} {:?}", s.seed, s.kind)).collect();
            format!("{:?} {:?} {} {stages:?}", recipe.model, recipe.data, recipe.seed)
        };
        assert_eq!(text(&again), text(&cell.recipe));
    }
}

#[test]
fn without_sweep_and_repeat_a_candidate_is_one_cell() {
    let text =
        "output = \"o\"\nmodel = \"m\"\nseed = 5\n[[candidate]]\nname = \"a\"\n[[candidate.stage]]\nmethod = \"x\"\n";
    let cells = study(text).unwrap().cells(|_| true).unwrap();
    assert_eq!((cells.len(), cells[0].seed, cells[0].sweep.len()), (1, 5, 0));
}

#[test]
fn mistakes() {
    let one = |more: &str, stage: &str| {
        format!("output = \"o\"\nmodel = \"m\"\n{more}\n[[candidate]]\nname = \"a\"\n[[candidate.stage]]\n{stage}\n")
    };
    let stage = "method = \"x\"";
    for (text, expected) in [
        ("model = \"m\"".into(), "1: \"output\" is missing: the folder of the study's reports"),
        (
            "output = \"o\"\nmodel = \"m\"".into(),
            "1: \"candidate\" is missing: write a [[candidate]] for everything that is to be compared",
        ),
        (
            "output = \"o\"\nmodel = \"m\"\n[candidate]\nname = \"a\"".into(),
            "3: \"candidate\" must be a list of tables: write [[candidate]]",
        ),
        (one("[[stage]]\nmethod = \"x\"", stage), "3: the stages of a study stand in [[candidate.stage]]"),
        (one("mask = \"k\"", stage), "3: \"mask\" has no place in a study: every cell writes its own"),
        (one("swep = 1", stage), "3: unknown key \"swep\" (did you mean \"sweep\"?)"),
        (one("[data]\ntrian = 1", stage), "4: [data]: unknown key \"trian\" (did you mean \"train\"?)"),
        (one("[[candidate]]\nnme = \"b\"", stage), "4: candidate 1: unknown key \"nme\" (did you mean \"name\"?)"),
        (
            one("[[candidate]]\nname = \"b\"", stage),
            "3: candidate 1: \"stage\" is missing: write a [[candidate.stage]]",
        ),
        (
            one("[[candidate]]\nname = \"a\"\n[[candidate.stage]]\nmethod = \"x\"", stage),
            "8: candidate 2: another candidate is called \"a\" too",
        ),
        (one("", "metod = 1"), "7: candidate \"a\": stage 1: unknown key \"metod\" (did you mean \"method\"?)"),
        (
            one("", "method = \"x\"\namount = \"{amount}\""),
            "8: candidate \"a\": [sweep] has no \"amount\" for \"{amount}\"",
        ),
        (
            one("[sweep]\namount = [1]", "method = \"x\"\namount = \"{amont}\""),
            "9: candidate \"a\": [sweep] has no \"amont\" for \"{amont}\" (did you mean \"amount\"?)",
        ),
        (
            one("[sweep]\namount = [1]", "method = \"x\"\namount = \"{amount}%\""),
            "9: candidate \"a\": \"{amount}\" must stand alone in its string, not within \"{amount}%\"",
        ),
        (one("[sweep]\namount = [1]", stage), "3: no candidate uses \"{amount}\", which [sweep] names"),
        (one("[sweep]\namount = 1", stage), "4: [sweep]: \"amount\" must be a list of values, not the integer 1"),
        (one("[sweep]\namount = []", stage), "4: [sweep]: \"amount\" is an empty list"),
        (
            one("[sweep]\nmask = [1]", stage),
            "4: [sweep]: \"mask\" cannot be swept: {mask} is a placeholder of commands",
        ),
        (
            one("[sweep]\nA = [1]", stage),
            "4: [sweep]: \"A\" cannot be swept: a name has lower-case letters, digits, _ and -",
        ),
        (
            one("[sweep]\namount = [\"10%\",\n\"120%\"]", "method = \"x\"\namount = \"{amount}\""),
            "5: candidate \"a\": stage 1: amount \"120%\" is out of range: a share goes from \"0%\" to \"100%\"",
        ),
        (one("[repeat]", stage), "3: [repeat]: \"seeds\" is missing: a list of integers"),
        (one("[repeat]\nseeds = 1", stage), "4: [repeat]: \"seeds\" must be a list of integers, not the integer 1"),
        (one("[repeat]\nseeds = []", stage), "4: [repeat]: \"seeds\" is an empty list"),
        (one("[repeat]\nseeds = [1, 1]", stage), "4: [repeat]: \"seeds\" names 1 twice"),
        (one("[repeat]\nseeds = [-1]", stage), "4: [repeat]: \"seeds\" must be 0 or more, not -1"),
        (one("[budget]\nloss = 1", stage), "3: [budget]: \"metric\" is missing: what the loss is measured in"),
        (one("[budget]\nmetric = \"belu\"", stage), "4: [budget]: \"metric\" is \"belu\" (did you mean \"bleu\"?)"),
        (
            one("[budget]\nmetric = \"bleu\"", stage),
            "3: [budget]: \"loss\" is missing: how much worse the metric may be",
        ),
        (
            one("[budget]\nmetric = \"bleu\"\nloss = -1", stage),
            "5: [budget]: \"loss\" must be 0 or more, not the integer -1",
        ),
    ] {
        let text: String = text;
        let error = study(&text).and_then(|s| s.cells(|_| true)).map(|_| ()).expect_err(&text);
        assert_eq!(error.status(), 2);
        assert_eq!(error.to_string(), format!("s/study.toml:{expected}"), "of the study\n{text}");
    }
}

#[test]
fn a_budget_may_use_a_metric_of_a_command() {
    let text = "output = \"o\"\nmodel = \"m\"\n[budget]\nmetric = \"rouge\"\nloss = 1\n[[candidate]]\nname = \"a\"\n\
                [[candidate.stage]]\nevaluate = { command = [\"score\", \"{model}\"] }\n";
    assert_eq!(study(text).unwrap().budget.unwrap().metric, "rouge");
}

#[test]
fn a_study_of_too_many_cells_is_refused() {
    let list = format!("[{}]", vec!["1"; 1000].join(","));
    let text = format!(
        "output = \"o\"\nmodel = \"m\"\n[[candidate]]\nname = \"a\"\n[[candidate.stage]]\nmethod = \"x\"\n\
         options = {{ a = \"{{a}}\", b = \"{{b}}\" }}\n[sweep]\na = {list}\nb = {list}\n"
    );
    let error = study(&text).unwrap().cells(|_| false).unwrap_err().to_string();
    assert_eq!(error, "s/study.toml:3: candidate \"a\": the study has more than 100000 cells: sweep less");
}

/// The stages of a control's text, a line each.
fn stages(cell: &Cell) -> Vec<String> {
    cell.stages_text().lines().map(str::to_string).collect()
}

const TRAINED: &str = r#"
output = "o"
model = "m"
[data]
train = "t"
target = "y"
[[candidate]]
name = "gradual"
[[candidate.stage]]
measure = ["gram"]
[[candidate.stage]]
method = "x"
scheme = "class-uniform"
amount = "{amount}"
options = { k = "{k}" }
seed = 4
schedule = { steps = 2, shape = "cubic", recover = 3 }
retrain = { epochs = 1, rate = 0.01, decay = 0.5 }
[[candidate.stage]]
retrain = { epochs = 5 }
[[candidate.stage]]
encode = "auto"
[[candidate.stage]]
evaluate = { command = ["score", "{model}"] }
[sweep]
amount = ["10%", "20%"]
k = ["a", "b"]
"#;

#[test]
fn dense_retrained_trains_as_the_run_does() {
    let study = study(TRAINED).unwrap();
    let cells = study.cells(|_| true).unwrap();
    let control = study.dense_retrained("dense retrained", &cells[0]).unwrap().unwrap();
    // Steady while it prunes, falling while it recovers: as core's driver trains a schedule.
    let step = "{ retrain = { epochs = 1, rate = 0.01 }, seed = 4 }";
    let expected = [
        step,
        step,
        "{ retrain = { epochs = 3, rate = 0.01, decay = 0.5 }, seed = 4 }",
        "{ retrain = { epochs = 5 } }",
        "{ evaluate = { command = [\"score\", \"{model}\"] } }",
    ];
    assert_eq!(stages(&control), expected);
    assert_eq!((control.candidate.as_str(), control.sweep.len()), ("dense retrained", 0));
    let dense = study.dense("dense").unwrap();
    assert_eq!(stages(&dense), expected[4..]);
    assert!(study.dense_retrained("d", &dense).unwrap().is_none(), "nothing trains");
    let int8 = study.encoded("int8 only", &[("encode", "dense"), ("values", "int8")]).unwrap();
    assert_eq!(stages(&int8), ["{ encode = \"dense\", values = \"int8\" }", expected[4]]);
}

#[test]
fn random_differs_in_the_method_alone() {
    let study = study(TRAINED).unwrap();
    let cells = study.cells(|_| true).unwrap();
    let random: Vec<_> = cells.iter().map(|c| study.random("random", "random", c).unwrap().unwrap()).collect();
    assert_eq!(
        stages(&random[0])[0],
        "{ method = \"random\", amount = \"10%\", seed = 4, schedule = { steps = 2, shape = \"cubic\", recover = 3 }, \
         retrain = { epochs = 1, rate = 0.01, decay = 0.5 } }"
    );
    assert_eq!(stages(&random[0]).len(), 4, "what was measured for the method is not measured for chance");
    let swept: Vec<String> = random.iter().map(|c| serde_json::Value::Object(c.sweep_json()).to_string()).collect();
    // The method's option is swept away with the method: a and b are one control.
    assert_eq!(swept, [r#"{"amount":"10%"}"#, r#"{"amount":"10%"}"#, r#"{"amount":"20%"}"#, r#"{"amount":"20%"}"#]);
    assert_eq!(random[0].recipe.text, random[1].recipe.text);
    assert_ne!(random[1].recipe.text, random[2].recipe.text);
    let rank = TRAINED
        .replace("schedule = { steps = 2, shape = \"cubic\", recover = 3 }\n", "")
        .replace("amount = \"{amount}\"\n", "")
        .replace("amount = [\"10%\", \"20%\"]", "");
    let cells = self::study(&rank).unwrap().cells(|_| true).unwrap();
    assert!(
        self::study(&rank).unwrap().random("random", "random", &cells[0]).unwrap().is_none(),
        "no amount, no control"
    );
}
