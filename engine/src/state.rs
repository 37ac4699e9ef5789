//! The state of a training in a safetensors file, bit by bit: weights, moments, the best so far, and in the metadata
//! the counters.

use std::path::Path;

use compress_core::stfile::{Spec, StFile, StWriter};
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};

use crate::train::{Epoch, Trainer};
use crate::value::Tensor;

/// f64 as its bits, so that what is read is what was written.
fn bits(v: f64) -> String {
    format!("{:016x}", v.to_bits())
}

fn unbits(s: &str) -> Option<f64> {
    u64::from_str_radix(s, 16).ok().map(f64::from_bits)
}

/// The arrays of a state, in order: name, elements.
fn arrays<'t>(trainer: &'t Trainer) -> Vec<(String, &'t [f32])> {
    let mut list = Vec::new();
    for (i, p) in trainer.parameters.iter().enumerate() {
        list.push((format!("theta:{}", p.name), p.theta.data()));
        list.push((format!("m:{}", p.name), &p.m[..]));
        list.push((format!("v:{}", p.name), &p.v[..]));
        if let Some((_, best)) = &trainer.best {
            list.push((format!("best:{}", p.name), best[i].data()));
        }
    }
    list
}

/// Writes the state beside the old one and puts it in its place.
pub fn save(trainer: &Trainer, path: &Path, key: &str) -> Result<()> {
    let list = arrays(trainer);
    let specs: Vec<Spec> = list
        .iter()
        .map(|(name, data)| Spec { name: name.clone(), dtype: Dtype::F32, shape: vec![data.len() as u64] })
        .collect();
    let epochs: Vec<String> = trainer
        .history
        .iter()
        .map(|e| match e.validation {
            Some((loss, accuracy)) => format!("{},{},{}", bits(e.train), bits(loss), bits(accuracy)),
            None => bits(e.train),
        })
        .collect();
    let best = trainer.best.as_ref().map_or(String::new(), |(b, _)| bits(*b));
    let metadata = [
        ("key", key.to_string()),
        ("seed", trainer.seed.to_string()),
        ("steps", trainer.steps.to_string()),
        ("before", trainer.before.to_string()),
        ("stale", trainer.stale.to_string()),
        ("best", best),
        ("epochs", epochs.join(";")),
    ];
    let metadata = metadata.map(|(k, v)| (k.to_string(), v));
    let writer = StWriter::create(path, &specs, &metadata)?;
    for (i, (_, data)) in list.iter().enumerate() {
        let mut bytes = Vec::new();
        for (n, chunk) in data.chunks(1 << 18).enumerate() {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
            writer.write_at(i, (n << 20) as u64, &bytes)?;
        }
    }
    writer.finish()?.persist(path)
}

/// Lets a trainer that has not begun go on from the optimiser's state of one that has ended: its moments and its count of
/// steps, where they are of the same weights. A schedule prunes between the two; a cold start after each pruning would
/// take steps of full size in every direction. False where there is nothing to go on from.
pub fn carry_on(trainer: &mut Trainer, path: &Path) -> Result<bool> {
    let file = StFile::open(path)?;
    let number = |name: &str| file.metadata().iter().find(|(k, _)| k == name).and_then(|(_, v)| v.parse::<u64>().ok());
    let read = |name: String, len: usize| -> Result<Option<Vec<f32>>> {
        let Some(entry) = file.entry(&name).filter(|e| e.elements == len as u64 && e.dtype == Dtype::F32) else {
            return Ok(None);
        };
        let mut bytes = vec![0; len * 4];
        file.read_at(entry, 0, &mut bytes)?;
        Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    };
    let mut moments = Vec::new();
    for p in &trainer.parameters {
        match (read(format!("m:{}", p.name), p.m.len())?, read(format!("v:{}", p.name), p.v.len())?) {
            (Some(m), Some(v)) => moments.push((m, v)),
            _ => return Ok(false),
        }
    }
    let Some(steps) = number("steps") else { return Ok(false) };
    for (p, (m, v)) in trainer.parameters.iter_mut().zip(moments) {
        (p.m, p.v) = (m, v);
    }
    (trainer.steps, trainer.before) = (steps, steps);
    Ok(true)
}

/// Fills a trainer that was made for the same recipe with a state.
pub fn load(trainer: &mut Trainer, path: &Path, key: &str) -> Result<()> {
    let file = StFile::open(path)?;
    let broken =
        |what: &str| Error::failed(format!("the state \"{}\" {what}; remove it and start anew", path.display()));
    let get = |name: &str| {
        let found = file.metadata().iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        found.ok_or_else(|| broken(&format!("has no \"{name}\"")))
    };
    let number = |name: &str| get(name)?.parse::<u64>().map_err(|_| broken(&format!("has no number \"{name}\"")));
    let was = get("key")?;
    if was != key {
        return Err(broken(&format!("belongs to another run ({was}, this one is {key})")));
    }
    if number("seed")? != trainer.seed {
        return Err(broken("was made with another seed"));
    }
    let read = |name: String, len: usize| -> Result<Vec<f32>> {
        let entry = file.entry(&name).filter(|e| e.elements == len as u64 && e.dtype == Dtype::F32);
        let entry = entry.ok_or_else(|| broken(&format!("has no fitting tensor \"{name}\"")))?;
        let mut bytes = vec![0; len * 4];
        file.read_at(entry, 0, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    for p in &mut trainer.parameters {
        let shape = p.theta.shape().to_vec();
        p.theta = Tensor::new(shape, read(format!("theta:{}", p.name), p.theta.len())?);
        p.m = read(format!("m:{}", p.name), p.m.len())?;
        p.v = read(format!("v:{}", p.name), p.v.len())?;
    }
    let best = get("best")?;
    trainer.best = match unbits(&best) {
        None => None,
        Some(loss) => {
            let all = trainer
                .parameters
                .iter()
                .map(|p| Ok(Tensor::new(p.theta.shape(), read(format!("best:{}", p.name), p.theta.len())?)));
            Some((loss, all.collect::<Result<Vec<_>>>()?))
        }
    };
    trainer.steps = number("steps")?;
    trainer.before = number("before")?;
    trainer.stale = number("stale")? as u32;
    trainer.history.clear();
    for word in get("epochs")?.split(';').filter(|w| !w.is_empty()) {
        let values: Option<Vec<f64>> = word.split(',').map(unbits).collect();
        trainer.history.push(match values.as_deref() {
            Some([train]) => Epoch { train: *train, validation: None },
            Some([train, loss, accuracy]) => Epoch { train: *train, validation: Some((*loss, *accuracy)) },
            _ => return Err(broken("has epochs that cannot be read")),
        });
    }
    Ok(())
}
