//! Commands that train or evaluate elsewhere: `retrain = { command = […] }`, `evaluate = { command = […] }`.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::convert::{from_f32, to_f32};
use crate::engine::{Job, Trained};
use crate::error::{Error, Result, did_you_mean};
use crate::format::{BLOCK_BYTES, Blocks, CreateOptions};
use crate::mask::MaskWriter;
use crate::output;
use crate::packing::{Outlook, Packer};
use crate::recipe::{Command, OnViolation};
use crate::report::Metrics;
use crate::stfile::{Spec, StFile, StWriter};
use crate::tensor::TensorId;
use crate::weights::Weights;

/// Runs a training command: {weights} and {mask} are written, {output} is read and checked.
pub fn retrain(job: &Job<'_>, command: &Command, on_violation: OnViolation) -> Result<Trained> {
    let files = Files::write(job)?;
    let lines = run(job, command, &files)?;
    let mut warnings = Vec::new();
    let weights = accept(job, &files.output, on_violation, &mut warnings)?;
    let epochs = lines.iter().filter_map(metrics).collect();
    Ok(Trained { weights, epochs, warnings, ..Trained::default() })
}

/// Runs an evaluating command; the metrics of its last line count.
pub fn evaluate(job: &Job<'_>, command: &Command) -> Result<Metrics> {
    let files = Files::write(job)?;
    let lines = run(job, command, &files)?;
    lines.iter().rev().find_map(metrics).ok_or_else(|| {
        Error::failed("the command printed no line such as {\"metrics\": {\"bleu\": 33.4}} on its stdout")
    })
}

/// What a command is given.
struct Files {
    model: PathBuf,
    weights: PathBuf,
    mask: PathBuf,
    output: PathBuf,
}

impl Files {
    fn write(job: &Job<'_>) -> Result<Files> {
        let first = &job.weights.model.paths()[0];
        let name = first.file_name().unwrap_or(first.as_os_str());
        let files = Files {
            model: match job.weights.model.sources() {
                [_] => job.folder.join(name),
                _ => job.folder.join("model"),
            },
            weights: job.folder.join("weights.safetensors"),
            mask: job.folder.join("masks.safetensors"),
            output: job.folder.join("trained.safetensors"),
        };
        for path in [&files.output, &files.weights, &files.mask] {
            let _ = std::fs::remove_file(path);
        }
        let options = CreateOptions { force: true, ..CreateOptions::default() };
        // Without packed weights: a command trains them by name.
        let plain = job.weights.unpacked();
        let outlook = Outlook::of(&Packer::new(plain.model, &files.model), &plain, &options, job.watch)?;
        output::write(&plain, job.map, &files.model, &outlook, job.watch)?.commit()?;
        save(job.weights, &floats(job.weights), &files.weights)?;
        let tensors = job.weights.model.tensors();
        let shapes: Vec<(String, Vec<u64>)> =
            job.held.iter().map(|id| (tensors[*id].name.clone(), tensors[*id].shape.clone())).collect();
        let masks = MaskWriter::create(&files.mask, &shapes)?;
        for (index, id) in job.held.iter().enumerate() {
            masks.write(index, &|first, out| job.weights.nonzero_bits(*id, first, out))?;
        }
        masks.commit()?;
        Ok(files)
    }
}

/// All weights, biases and norms: floating-point tensors that are not constants of the graph.
fn floats(weights: &Weights<'_>) -> Vec<TensorId> {
    let (tensors, roles) = (weights.model.tensors(), &weights.model.roles().tensors);
    let is_weight = |id: &TensorId| {
        tensors[*id].dtype.float_bytes().is_some()
            && tensors[*id].elements > 0
            && !matches!(roles[*id], crate::class::Role::Never(_))
    };
    (0..tensors.len()).filter(is_weight).collect()
}

/// Writes tensors as a plain safetensors file, by name.
pub fn save(weights: &Weights<'_>, ids: &[TensorId], path: &Path) -> Result<()> {
    let specs: Vec<Spec> = ids
        .iter()
        .map(|id| {
            let info = &weights.model.tensors()[*id];
            Spec { name: info.name.clone(), dtype: info.dtype.clone(), shape: info.shape.clone() }
        })
        .collect();
    let writer = StWriter::create(path, &specs, &[])?;
    for (index, id) in ids.iter().enumerate() {
        let blocks = Current { weights, id: *id };
        crate::pump::pump(
            &blocks,
            writer.temp().file(),
            path,
            writer.position(index),
            &crate::progress::Watch::silent(),
        )?;
    }
    writer.finish()?.persist(path)
}

struct Current<'a> {
    weights: &'a Weights<'a>,
    id: TensorId,
}

impl Blocks for Current<'_> {
    fn bytes(&self) -> u64 {
        self.weights.model.tensors()[self.id].dense_bytes()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.weights.fill(self.id, offset, out)
    }
}

/// Runs the command and returns the JSON lines of its stdout. Its stderr is the user's.
fn run(job: &Job<'_>, command: &Command, files: &Files) -> Result<Vec<Value>> {
    let data = job.recipe.data.as_ref().and_then(|d| d.train.as_ref().or(d.validation.as_ref()));
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let value = |name: &str| match name {
        "model" => absolute(&files.model),
        "weights" => absolute(&files.weights),
        "mask" => absolute(&files.mask),
        "output" => absolute(&files.output),
        _ => data.map(|d| absolute(d)).unwrap_or_default(),
    };
    let words = command.filled(|name| value(name).display().to_string());
    let folder = match job.recipe.folder() {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let mut process = Process::new(&words[0]);
    process.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    for name in Command::PLACEHOLDERS {
        process.env(format!("COMPRESS_{}", name.to_uppercase()), value(name));
    }
    let mut child =
        process.spawn().map_err(|e| Error::failed(format!("the command \"{}\" cannot be started: {e}", words[0])))?;
    let stdout = child.stdout.take().ok_or_else(|| Error::failed("the command has no stdout"))?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let limit = job.recipe.plugins.timeout;
    let mut heard = Instant::now();
    let mut lines = Vec::new();
    let stopped = loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                heard = Instant::now();
                job.watch.progress.note(&line);
                lines.extend(serde_json::from_str::<Value>(&line).ok().filter(Value::is_object));
            }
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) if job.watch.check().is_err() => break Some(Error::Interrupted),
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > limit => {
                break Some(Error::failed(format!(
                    "the command \"{}\" printed nothing for {} s and was ended; raise \"timeout\" in [plugins]",
                    words[0],
                    limit.as_secs()
                )));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    if let Some(error) = stopped {
        end(&mut child);
        return Err(error);
    }
    let status = child.wait().map_err(|e| Error::failed(format!("the command \"{}\": {e}", words[0])))?;
    if !status.success() {
        return Err(Error::failed(format!("the command \"{}\" failed ({status})", words[0])));
    }
    Ok(lines)
}

/// Ends a command and whatever it started.
#[allow(unsafe_code)]
fn end(child: &mut std::process::Child) {
    // SAFETY: kill takes two integers; the group is the child's own (process_group(0)), and the child was not waited
    // for yet, so its number cannot have been given to another process.
    unsafe {
        libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL);
    }
    let _ = child.wait();
}

/// `{"epoch": 1, "metrics": {"perplexity": 4.8, "test": {…}}}`
fn metrics(line: &Value) -> Option<Metrics> {
    let map = line.get("metrics")?.as_object()?;
    let numbers = |map: &serde_json::Map<String, Value>| {
        map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect::<Vec<_>>()
    };
    let test = map.get("test").and_then(Value::as_object).map(numbers).unwrap_or_default();
    Some(Metrics { validation: numbers(map), test })
}

/// Checks what a training command wrote and stores it in the model's own types: names and shapes are those of
/// {weights}, pruned weights are still zero.
fn accept(job: &Job<'_>, path: &Path, on_violation: OnViolation, warnings: &mut Vec<String>) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::failed(format!("the command ended without writing {{output}} (\"{}\")", path.display())));
    }
    let file = StFile::open(path)?;
    let tensors = job.weights.model.tensors();
    let ids = floats(job.weights);
    for entry in file.entries() {
        if !ids.iter().any(|id| tensors[*id].name == entry.name) {
            let hint = did_you_mean(&entry.name, ids.iter().map(|id| tensors[*id].name.as_str()));
            return Err(Error::failed(format!(
                "{{output}} has a tensor \"{}\" that {{weights}} has not{hint}",
                entry.name
            )));
        }
    }
    let accepted = job.folder.join("accepted.safetensors");
    let specs: Vec<Spec> = ids
        .iter()
        .map(|id| Spec {
            name: tensors[*id].name.clone(),
            dtype: tensors[*id].dtype.clone(),
            shape: tensors[*id].shape.clone(),
        })
        .collect();
    let writer = StWriter::create(&accepted, &specs, &[])?;
    for (index, id) in ids.iter().enumerate() {
        let info = &tensors[*id];
        let entry = file
            .entry(&info.name)
            .ok_or_else(|| Error::failed(format!("{{output}} lacks the tensor \"{}\"", info.name)))?;
        if entry.shape != info.shape || entry.dtype.float_bytes().is_none() {
            return Err(Error::failed(format!(
                "{{output}} has \"{}\" as {} {:?} where {} {:?} is meant",
                info.name,
                entry.dtype.name(),
                entry.shape,
                info.dtype.name(),
                info.shape
            )));
        }
        let came_back = convert(job, &file, entry, *id, index, &writer)?;
        if came_back > 0 {
            let what = format!("{came_back} pruned weights of \"{}\" came back non-zero", info.name);
            match on_violation {
                OnViolation::Error => {
                    return Err(Error::failed(format!(
                        "{what}; hold the mask while training, or set on_violation = \"repair\""
                    )));
                }
                OnViolation::Repair => warnings.push(format!("{what} and were set to zero again")),
            }
        }
    }
    writer.finish()?.persist(&accepted)?;
    Ok(accepted)
}

/// Copies a tensor in the model's type with the held zeros put back; returns how many had come back.
fn convert(
    job: &Job<'_>,
    file: &StFile,
    entry: &crate::stfile::Entry,
    id: TensorId,
    index: usize,
    writer: &StWriter,
) -> Result<u64> {
    let info = &job.weights.model.tensors()[id];
    let (from, to) = (entry.dtype.float_bytes().unwrap_or(4), info.dtype.float_bytes().unwrap_or(4));
    let held = job.held.contains(&id);
    let step = (BLOCK_BYTES / 8) as u64;
    let mut came_back = 0;
    for first in (0..info.elements).step_by(step as usize) {
        let count = step.min(info.elements - first) as usize;
        let mut bytes = vec![0; count * from];
        file.read_at(entry, first * from as u64, &mut bytes)?;
        let mut values = vec![0f32; count];
        to_f32(&entry.dtype, &bytes, &mut values);
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::failed(format!(
                "{{output}}: the weight of \"{}\" at index {} is {}",
                info.name,
                first + i as u64,
                values[i]
            )));
        }
        let mut out = vec![0; count * to];
        if entry.dtype == info.dtype {
            out.copy_from_slice(&bytes);
        } else {
            from_f32(&info.dtype, &values, &mut out);
        }
        if held {
            let mut kept = vec![0; count.div_ceil(8)];
            job.weights.nonzero_bits(id, first, &mut kept)?;
            let pruned = |i: usize| kept[i / 8] >> (i % 8) & 1 == 0;
            came_back += values.iter().enumerate().filter(|(i, v)| **v != 0.0 && pruned(*i)).count() as u64;
            crate::convert::zero_where(to, &mut out, pruned);
        }
        writer.write_at(index, first * to as u64, &out)?;
    }
    Ok(came_back)
}
