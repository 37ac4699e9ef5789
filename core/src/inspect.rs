//! `compress inspect`: classes, sizes and zeros of a model.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::class::resolve::ClassMap;
use crate::convert::count_zeros;
use crate::error::Result;
use crate::format::{BLOCK_BYTES, PackedLayout};
use crate::model::Model;
use crate::progress::{Unit, Watch};
use crate::report::{Inspect, InspectClass, InspectPart, InspectTensor};

/// Counts the zeros of every floating-point tensor and part, and sums them by class.
pub fn inspect(model: &Model, map: &ClassMap, watch: Watch<'_>) -> Result<Inspect> {
    let tensors = model.tensors();
    watch.progress.begin("reading", tensors.iter().map(|t| t.dense_bytes()).sum(), Unit::Bytes);
    let mut work = Vec::new();
    for (id, info) in tensors.iter().enumerate().filter(|(_, t)| t.dtype.float_bytes().is_some()) {
        let width = info.dtype.float_bytes().unwrap_or(1) as u64;
        let parts = map.parts_of(id);
        let spans: Vec<(u64, u64)> = if parts.is_empty() {
            vec![(0, info.elements)]
        } else {
            parts.iter().map(|p| (p.spec.offset, p.spec.weights())).collect()
        };
        for (index, (offset, count)) in spans.into_iter().enumerate() {
            let step = BLOCK_BYTES as u64 / width;
            work.extend((0..count.div_ceil(step)).map(|b| (id, index, offset + b * step, step.min(count - b * step))));
        }
    }
    let zeros: Result<Vec<(usize, usize, u64)>> = work
        .par_iter()
        .map_init(Vec::new, |buffer, (id, index, first, count)| {
            let dtype = &tensors[*id].dtype;
            let width = dtype.float_bytes().unwrap_or(1) as u64;
            buffer.resize((count * width) as usize, 0);
            model.read_at(*id, first * width, buffer)?;
            watch.tick(count * width)?;
            Ok((*id, *index, count_zeros(dtype, buffer)))
        })
        .collect();
    watch.progress.end();
    let mut by_tensor = vec![0u64; tensors.len()];
    let mut by_part = vec![0u64; map.parts.len()];
    for (id, index, count) in zeros? {
        by_tensor[id] += count;
        let range = map.part_range(id);
        if !range.is_empty() {
            by_part[range.start + index] += count;
        }
    }
    let reasons: BTreeMap<usize, &str> = map.untouched.iter().map(|(id, why)| (*id, why.as_str())).collect();
    Ok(Inspect {
        path: model.paths().iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
        format: model.format().to_string(),
        bytes: model.bytes(),
        classes: classes(model, map, &by_part),
        tensors: tensors
            .iter()
            .enumerate()
            .map(|(id, info)| InspectTensor {
                name: info.name.clone(),
                shape: info.shape.clone(),
                dtype: info.dtype.name().to_string(),
                class: map.class_of_tensor(id).map(str::to_string),
                zeros: info.dtype.float_bytes().map(|_| by_tensor[id]),
                reason: reasons.get(&id).map(|r| r.to_string()),
                packed: packed(model, id),
            })
            .collect(),
        warnings: model.warnings().cloned().collect(),
    })
}

fn packed(model: &Model, id: usize) -> Option<String> {
    let (source, inner) = model.origin(id);
    model.sources()[source].packed(inner).map(|layout| {
        match layout {
            PackedLayout::Dense => "dense",
            PackedLayout::Mask => "mask",
            PackedLayout::Deltas => "deltas",
            PackedLayout::Rice => "rice",
            PackedLayout::Factored => "factored",
            PackedLayout::Hashed => "hashed",
        }
        .to_string()
    })
}

fn classes(model: &Model, map: &ClassMap, zeros: &[u64]) -> Vec<InspectClass> {
    map.classes
        .iter()
        .map(|class| {
            let mut parts: Vec<InspectPart> = Vec::new();
            for p in &class.parts {
                let info = &map.parts[*p];
                if info.name == class.name {
                    continue;
                }
                let found = parts.iter().position(|e| e.name == info.name);
                let entry = found.unwrap_or_else(|| {
                    parts.push(InspectPart { name: info.name.clone(), ..InspectPart::default() });
                    parts.len() - 1
                });
                parts[entry].weights += info.spec.weights();
                parts[entry].zeros += zeros[*p];
            }
            InspectClass {
                name: class.name.clone(),
                weights: class.weights,
                zeros: class.parts.iter().map(|p| zeros[*p]).sum(),
                tensors: tensor_names(model, map, &class.parts),
                parts,
            }
        })
        .collect()
}

/// Names of the tensors that parts lie in, each once, in file order.
pub fn tensor_names(model: &Model, map: &ClassMap, parts: &[usize]) -> Vec<String> {
    let mut ids: Vec<usize> = parts.iter().map(|p| map.parts[*p].tensor).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| model.tensors()[id].name.clone()).collect()
}
