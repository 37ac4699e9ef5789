//! Every error sentence of the recipe.

use super::parse;

/// Recipes of one mistake each, and what is said of it after `runs/pipeline.toml:`.
fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let error = parse(text).expect_err(text);
        assert_eq!(error.status(), 2, "{text}");
        let expected = format!("runs/pipeline.toml:{expected}");
        assert_eq!(error.to_string(), expected, "of the recipe\n{text}");
    }
}

#[test]
fn of_the_text() {
    check(&[
        ("model = \"m\"\nseed = \n", "2:8: this is not TOML: string values must be quoted, expected literal string"),
        ("model = \"m\"\nmodel = \"n\"\n", "2:1: this is not TOML: duplicate key"),
        ("# ü\n[data\n", "2:6: this is not TOML: unclosed table, expected `]`"),
        ("model = \"m", "1:11: this is not TOML: invalid basic string, expected `\"`"),
        ("a = \"ü\" b", "1:9: this is not TOML: unexpected key or value, expected newline, `#`"),
        ("seed = 1e999", "1: the float 1e999 is out of range"),
    ]);
}

#[test]
fn of_the_top() {
    check(&[
        ("", "1: \"model\" is missing: the path of the model to compress"),
        ("modle = \"m\"", "1: unknown key \"modle\" (did you mean \"model\"?)"),
        ("model = \"m\"\n\n[clases]\na = [\"*\"]", "3: unknown key \"clases\" (did you mean \"classes\"?)"),
        ("model = 3", "1: \"model\" must be a path or a list of paths, not the integer 3"),
        ("model = \"\"", "1: \"model\" is empty"),
        ("model = []", "1: \"model\" is an empty list"),
        ("model = [\"a\",\n \"b\", 3]", "2: \"model\" must be a string, not the integer 3"),
        ("model = [\"a\", \"a\"]", "1: \"model\" names \"a\" twice"),
        ("model = \"m\"\noutput = [\"x\"]", "2: \"output\" must be a string, not a list"),
        ("model = \"m\"\nseed = -1", "2: \"seed\" must be 0 or more, not -1"),
        ("model = \"m\"\nseed = 18446744073709551616", "2: \"seed\" is too large: 18446744073709551616"),
        ("model = \"m\"\nseed = 1.0", "2: \"seed\" must be an integer, not the float 1.0"),
        ("model = \"m\"\ninclude_1d = \"yes\"", "2: \"include_1d\" must be true or false, not the string \"yes\""),
        (
            "model = \"m\"\noutput = \"m\"",
            "2: \"output\" is the same file as \"model\", runs/m: give it a path of its own",
        ),
        (
            "model = \"m\"\noutput = \"o\"\nmask = \"o\"",
            "3: \"mask\" is the same file as \"output\", runs/o: give it a path of its own",
        ),
        ("model = \"m\"\nstage = 3", "2: \"stage\" must be a list of tables: write [[stage]]"),
        ("model = \"m\"\n[stage]\nmethod = \"a\"", "2: \"stage\" must be a list of tables: write [[stage]]"),
        ("model = \"m\"\nstage = [3]", "2: \"stage\" must be a table, not the integer 3"),
        (
            "model = [\"a\"]\noutput = \"b.onnx\"",
            "2: \"output\" names a file, runs/b.onnx, and a list of models is written into a folder: give a folder's name",
        ),
    ]);
}

#[test]
fn of_the_tables() {
    check(&[
        ("model = \"m\"\nclasses = 3", "2: \"classes\" must be a table, not the integer 3"),
        ("model = \"m\"\n[classes]\na = \"*\"", "3: [classes]: \"a\" must be a list of globs: write [\"*\"]"),
        ("model = \"m\"\n[classes]\na = []", "3: [classes]: class \"a\" has no globs"),
        ("model = \"m\"\n[classes]\n\"\" = [\"*\"]", "3: [classes]: a class has no name"),
        (
            "model = \"m\"\n[classes]\nsource.layer1 = [\"*\"]",
            "3: [classes]: \"source\" must be a list of globs, not a table: a name with a dot needs quotes, \
             \"source.layer1\"",
        ),
        ("model = \"m\"\n[data]\ntrian = \"t\"", "3: [data]: unknown key \"trian\" (did you mean \"train\"?)"),
        ("model = \"m\"\n[data]\nignore = \"0\"", "3: [data]: \"ignore\" must be an integer, not the string \"0\""),
        (
            "model = \"m\"\n[data.bleu]\nprefix = \"x\"",
            "2: [data.bleu]: \"begin\" is missing: the id that begins a sentence",
        ),
        (
            "model = \"m\"\n[data.bleu]\nprefix = \"x\"\nbegin = 1\nend = 2\nvocabulary = \"v\"\n",
            "2: [data.bleu]: \"references\" is missing: the file of the reference translations, or { validation = …, \
             test = … }",
        ),
        (
            "model = \"m\"\n[data.bleu]\nprefix = \"x\"\nbegin = 1\nend = 2\nvocabulary = \"v\"\nreferences = {}\n",
            "7: [data.bleu.references]: \"validation\" is missing: the file of the reference translations",
        ),
        (
            "model = \"m\"\n[data.bleu]\nprefix = \"x\"\nbegin = 1\nend = 2\nvocabulary = \"v\"\nreferences = \"r\"\n\
             tokenize = \"13b\"",
            "8: [data.bleu]: \"tokenize\" is \"13b\" (did you mean \"13a\"?)",
        ),
        (
            "model = \"m\"\n[plugins]\nlibraries = \"x.so\"",
            "3: [plugins]: \"libraries\" must be a list of paths: write [\"x.so\"]",
        ),
        (
            "model = \"m\"\n[plugins]\nprograms = { a = [] }",
            "3: [plugins.programs]: \"a\" is empty: give the program and its arguments",
        ),
        (
            "model = \"m\"\n[plugins]\ntimeout = 0",
            "3: [plugins]: \"timeout\" must be a number of seconds above 0 and at most 31536000, not the integer 0",
        ),
    ]);
}

/// Stages of one mistake each; the line is counted from `[[stage]]` = 1.
fn stage(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let text = format!("model = \"m\"\n[[stage]]\nmethod = \"first\"\n[[stage]]\n{text}");
        let error = parse(&text).expect_err(&text).to_string();
        assert_eq!(error, format!("runs/pipeline.toml:{expected}"), "of the recipe\n{text}");
    }
}

#[test]
fn of_the_kinds_of_stages() {
    stage(&[
        ("method = \"a\"\namont = 1", "6: stage 2: unknown key \"amont\" (did you mean \"amount\"?)"),
        ("metod = \"a\"", "5: stage 2: unknown key \"metod\" (did you mean \"method\"?)"),
        (
            "method = \"a\"\noutput = \"o\"",
            "6: stage 2: unknown key \"output\": it belongs at the top of the file, before the first table",
        ),
        (
            "seed = 1",
            "4: stage 2: it does not say what to do: give one of method, measure, retrain, reinitialise, evaluate, encode",
        ),
        (
            "method = \"a\"\nmeasure = [\"gram\"]",
            "6: stage 2: both \"method\" and \"measure\": give each a stage of its own",
        ),
        (
            "evaluate = [\"loss\"]\nretrain = {}",
            "5: stage 2: both \"retrain\" and \"evaluate\": give each a stage of its own",
        ),
        ("encode = \"auto\"\namount = 1", "6: stage 2: \"amount\" does not go with \"encode\", only with \"method\""),
        (
            "retrain = {}\nclasses = [\"*\"]",
            "6: stage 2: \"classes\" does not go with \"retrain\", only with \"method\" and \"encode\"",
        ),
    ]);
}

#[test]
fn of_method_stages() {
    stage(&[
        ("method = 1", "5: stage 2: \"method\" must be a string, not the integer 1"),
        ("method = \"\"", "5: stage 2: \"method\" is empty"),
        (
            "method = \"a\"\nscheme = \"class-blnd\"",
            "6: stage 2: \"scheme\" is \"class-blnd\" (did you mean \"class-blind\"?)",
        ),
        (
            "method = \"a\"\nscheme = \"x\"",
            "6: stage 2: \"scheme\" is \"x\": known are class-blind, class-uniform and class-distribution",
        ),
        (
            "method = \"a\"\namount = \"120%\"",
            "6: stage 2: amount \"120%\" is out of range: a share goes from \"0%\" to \"100%\"",
        ),
        (
            "method = \"a\"\namount = [1]",
            "6: stage 2: \"amount\" must be a share (\"80%\" or 0.8), a count of weights (500), a size (\"20MB\", \"20MiB\") \
             or a ratio (\"4x\"), not a list",
        ),
        ("method = \"a\"\namount = {}", "6: stage 2: \"amount\" is an empty table: name classes, or \"*\" for all"),
        (
            "method = \"a\"\n[stage.amount]\nb = 1\n\"*\" = -1",
            "8: stage 2: amount: \"*\": amount -1 is out of range: an integer is a count of weights, 0 or more",
        ),
        (
            "method = \"a\"\namount = { b = \"4x\" }",
            "6: stage 2: amount: \"b\": \"4x\" is a size of the whole output: by class only shares and counts",
        ),
        (
            "method = \"a\"\namount = { source.layer1 = 0.5 }",
            "6: stage 2: amount: \"source\" must be an amount, not a table: a name with a dot needs quotes, \
             \"source.layer1\"",
        ),
        (
            "method = \"a\"\npattern = \"4:2\"",
            "6: stage 2: pattern \"4:2\" is out of range: n:m keeps n of each m weights, so 0 < n < m",
        ),
        ("method = \"a\"\npattern = \"0x1\"", "6: stage 2: pattern \"0x1\" is out of range: a block has no side of 0"),
        (
            "method = \"a\"\npattern = \"2-4\"",
            "6: stage 2: pattern \"2-4\" is not known: write \"free\", \"2:4\", \"row\", \"column\" or \"4x1\"",
        ),
        ("method = \"a\"\npattern = \"rows\"", "6: stage 2: pattern \"rows\" is not known (did you mean \"row\"?)"),
        (
            "method = \"a\"\npattern = \"2:4\"\namount = 0.6",
            "7: stage 2: pattern \"2:4\" alone says how much goes: leave \"amount\" out",
        ),
        ("method = \"a\"\nclasses = []", "6: stage 2: \"classes\" is empty: no weight would match"),
        ("method = \"a\"\nclasses = \"x\"", "6: stage 2: \"classes\" must be a list of globs: write [\"x\"]"),
        ("method = \"a\"\noptions = 1", "6: stage 2: \"options\" must be a table, not the integer 1"),
        (
            "method = \"a\"\noptions = { b = 9223372036854775808 }",
            "6: stage 2: options: \"b\" holds an integer that is too large",
        ),
        (
            "method = \"a\"\namount = 1\nschedule = { steps = 1 }",
            "7: stage 2: \"schedule\" needs \"retrain\" in the same stage",
        ),
        (
            "method = \"a\"\nschedule = { steps = 1 }\nretrain = { epochs = 1 }",
            "6: stage 2: \"schedule\" needs \"amount\": what is to be reached in steps",
        ),
        (
            "method = \"a\"\namount = 1\nschedule = { steps = 1, recover = 1 }\nretrain = { command = [\"x\"] }",
            "7: stage 2: \"recover\" counts epochs of the engine: a command decides its epochs itself",
        ),
        ("method = \"a\"\nschedule = { }", "6: stage 2: schedule: \"steps\" is missing: in how many steps"),
        (
            "method = \"a\"\nschedule = { steps = 1, shape = \"cube\" }",
            "6: stage 2: schedule: \"shape\" is \"cube\" (did you mean \"cubic\"?)",
        ),
        ("method = \"a\"\nretrain = { epochs = 1 }", "4: stage 2 (a): retrain needs \"train\" in [data]"),
    ]);
}

#[test]
fn of_retraining() {
    stage(&[
        ("retrain = 1", "5: stage 2: \"retrain\" must be a table, not the integer 1"),
        ("retrain = {}", "5: stage 2: retrain: \"epochs\" is missing: how often to go through the training data"),
        ("retrain = { epoch = 1 }", "5: stage 2: retrain: unknown key \"epoch\" (did you mean \"epochs\"?)"),
        (
            "retrain = { epochs = \"four\" }",
            "5: stage 2: retrain: \"epochs\" must be a number, not the string \"four\"",
        ),
        (
            "retrain = { epochs = 0 }",
            "5: stage 2: retrain: \"epochs\" must be above 0 and at most 1000000, not the integer 0",
        ),
        (
            "retrain = { epochs = 5000000000 }",
            "5: stage 2: retrain: \"epochs\" must be above 0 and at most 1000000, not the integer 5000000000",
        ),
        ("retrain = { epochs = 1, rate = nan }", "5: stage 2: retrain: \"rate\" must be above 0, not the float NaN"),
        (
            "retrain = { epochs = 1, decay = 1.5 }",
            "5: stage 2: retrain: \"decay\" must be a factor above 0 and at most 1, \"linear\" or \"cosine\", not the \
             float 1.5",
        ),
        (
            "retrain = { epochs = 1, optimizer = \"sdg\" }",
            "5: stage 2: retrain: \"optimizer\" is \"sdg\" (did you mean \"sgd\"?)",
        ),
        (
            "retrain = { epochs = 1, momentum = 0.9 }",
            "5: stage 2: retrain: \"momentum\" goes with optimizer = \"sgd\" only",
        ),
        (
            "retrain = { epochs = 1, dropout = 1 }",
            "5: stage 2: retrain: \"dropout\" must be a probability from 0 to below 1, not the integer 1",
        ),
        (
            "retrain = { epochs = 1, dropout = { a = -0.5 } }",
            "5: stage 2: retrain: dropout: \"a\" must be a probability from 0 to below 1, not the float -0.5",
        ),
        (
            "retrain = { epochs = 1, distil = 1.5 }",
            "5: stage 2: retrain: \"distil\" must be a share above 0 and at most 1, not the float 1.5",
        ),
        (
            "retrain = { epochs = 1, distil = \"big.onnx\" }",
            "5: stage 2: retrain: \"distil\" must be a share or a table with \"weight\", not the string \"big.onnx\"",
        ),
        (
            "retrain = { epochs = 1, distil = { teacher = \"big.onnx\" } }",
            "5: stage 2: retrain: distil: \"weight\" is missing: the teacher's share in the loss",
        ),
        (
            "retrain = { epochs = 1, distil = { weight = 1, temperature = 0 } }",
            "5: stage 2: retrain: distil: \"temperature\" must be above 0, not the integer 0",
        ),
        (
            "retrain = { epochs = 1, on_violation = \"error\" }",
            "5: stage 2: retrain: \"on_violation\" goes with \"command\" only: the engine holds the masks itself",
        ),
        (
            "retrain = { epochs = 1, command = [\"x\"] }",
            "5: stage 2: retrain: \"epochs\" has no meaning beside \"command\": the command decides that itself",
        ),
        ("retrain = { command = [] }", "5: stage 2: retrain: \"command\" is empty: give the program and its arguments"),
        (
            "retrain = { command = [\"a\", \"--x={weight}\"] }",
            "5: stage 2: retrain: unknown placeholder \"{weight}\" in \"command\" (did you mean \"weights\"?)",
        ),
        (
            "retrain = { command = [\"a\"], on_violation = \"mend\" }",
            "5: stage 2: retrain: \"on_violation\" is \"mend\": known are error and repair",
        ),
        ("retrain = { epochs = 1 }", "4: stage 2 (retrain): retrain needs \"train\" in [data]"),
        ("retrain = { epochs = 1 }\n[data]\ntrain = \"t\"", "4: stage 2 (retrain): retrain needs \"target\" in [data]"),
        (
            "retrain = { epochs = 1, patience = 1 }\n[data]\ntrain = \"t\"\ntarget = \"y\"",
            "4: stage 2 (retrain): \"patience\" needs \"validation\" in [data]",
        ),
    ]);
}

#[test]
fn of_the_other_stages() {
    stage(&[
        ("measure = []", "5: stage 2: \"measure\" is empty: name at least one of its statistics"),
        ("measure = [\"grams\"]", "5: stage 2: \"measure\" names \"grams\" (did you mean \"gram\"?)"),
        ("measure = [\"gram\", \"gram\"]", "5: stage 2: \"measure\" names \"gram\" twice"),
        (
            "measure = [\"gram\"]\noptions = { example = 3 }",
            "6: stage 2: options: unknown key \"example\" (did you mean \"examples\"?)",
        ),
        ("measure = [\"gram\"]", "4: stage 2 (measure): measure needs \"train\" in [data]"),
        (
            "reinitialise = {}",
            "5: stage 2: reinitialise: give either \"uniform\" (the largest absolute value) or \"normal\" (the standard \
             deviation)",
        ),
        ("reinitialise = { normal = 0 }", "5: stage 2: reinitialise: \"normal\" must be above 0, not the integer 0"),
        ("evaluate = \"loss\"", "5: stage 2: \"evaluate\" must be a list of metrics: write [\"loss\"]"),
        (
            "evaluate = [\"rouge\"]",
            "5: stage 2: \"evaluate\" names \"rouge\": known are loss, perplexity, accuracy and bleu",
        ),
        ("evaluate = {}", "5: stage 2: evaluate: \"command\" is missing: a list of words"),
        (
            "evaluate = { command = [\"x\"], on_violation = \"error\" }",
            "5: stage 2: evaluate: unknown key \"on_violation\": only command is known",
        ),
        ("evaluate = [\"loss\"]", "4: stage 2 (evaluate): evaluate needs \"validation\" in [data]"),
        (
            "evaluate = [\"loss\"]\n[data]\nvalidation = \"v\"",
            "4: stage 2 (evaluate): evaluate needs \"target\" in [data]",
        ),
        (
            "evaluate = [\"bleu\"]\n[data]\nvalidation = \"v\"",
            "4: stage 2 (evaluate): \"bleu\" needs the table [data.bleu]",
        ),
        ("encode = \"sparce\"", "5: stage 2: \"encode\" is \"sparce\" (did you mean \"sparse\"?)"),
        (
            "encode = \"auto\"\nvalues = \"codebook:9\"",
            "6: stage 2: \"values\" is \"codebook:9\": a codebook has 1 to 8 bits",
        ),
        (
            "encode = \"auto\"\nvalues = \"codebook\"",
            "6: stage 2: \"values\" is \"codebook\" without bits: write \"codebook:4\"",
        ),
        ("encode = \"auto\"\nvalues = \"int\"", "6: stage 2: \"values\" is \"int\" (did you mean \"int8\"?)"),
    ]);
}

#[test]
fn of_sizes() {
    stage(&[
        (
            "method = \"a\"\namount = \"4x\"\n[[stage]]\nmethod = \"b\"\namount = \"20MB\"",
            "7: stage 3 (b): stage 2 already aims at a size: only one stage may",
        ),
        (
            "method = \"a\"\namount = \"4x\"\n[[stage]]\nencode = \"auto\"\n[[stage]]\nmethod = \"b\"",
            "9: stage 4 (b): stage 2 aims at a size, so only encode, retrain and evaluate may follow it",
        ),
    ]);
}
