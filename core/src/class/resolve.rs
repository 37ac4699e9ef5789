//! The classes of a run: defaults from roles, overridden by the recipe's `[classes]`.

use super::{PartSpec, Role, Roles};
use crate::error::{Error, Result};
use crate::glob;
use crate::tensor::{TensorId, TensorInfo};

/// The classes of a model, with the recipe's names.
#[derive(Clone, Debug, Default)]
pub struct ClassMap {
    /// Classes in the order of `[classes]`, then in file order.
    pub classes: Vec<Class>,
    /// All prunable parts in file order.
    pub parts: Vec<PartInfo>,
    /// Tensors that no stage may touch, with the reason.
    pub untouched: Vec<(TensorId, String)>,
}

/// A weight class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Indices into [`ClassMap::parts`], in file order.
    pub parts: Vec<usize>,
    /// Sum of the parts' weights.
    pub weights: u64,
}

/// A part with its class.
#[derive(Clone, Debug)]
pub struct PartInfo {
    /// The tensor that it is a block of.
    pub tensor: TensorId,
    /// Where it lies and what it does.
    pub spec: PartSpec,
    /// Index into [`ClassMap::classes`].
    pub class: usize,
    /// `class`, or `class/below`.
    pub name: String,
}

impl ClassMap {
    /// Gives every prunable part its class. `rules` are the recipe's `[classes]`: class and globs, in written order.
    pub fn resolve(
        tensors: &[TensorInfo],
        roles: &Roles,
        rules: &[(String, Vec<String>)],
        include_1d: bool,
    ) -> Result<ClassMap> {
        let mut map = ClassMap::default();
        let mut uses = Uses::new(rules);
        for (name, _) in rules {
            map.class_index(name);
        }
        for (tensor, (info, role)) in tensors.iter().zip(&roles.tensors).enumerate() {
            let parts = match role {
                _ if info.elements == 0 => Err("it has no elements".to_string()),
                _ if info.not_a_weight.is_some() => Err(info.not_a_weight.clone().unwrap_or_default()),
                _ if info.dtype.float_bytes().is_none() => Err(format!("its type is {}", info.dtype.name())),
                Role::Weight(parts) => Ok(parts),
                Role::OneDimensional(parts, _) if include_1d => Ok(parts),
                Role::OneDimensional(_, reason) => Err(format!("{reason}; include_1d is false")),
                Role::Never(reason) => Err(reason.clone()),
            };
            match parts {
                Ok(parts) => {
                    for spec in parts {
                        let class = uses.class_of(info, spec).unwrap_or(&spec.class).to_string();
                        let class = map.class_index(&class);
                        map.add(tensor, spec.clone(), class);
                    }
                }
                Err(reason) => {
                    uses.note_untouched(info, &reason);
                    map.untouched.push((tensor, reason));
                }
            }
        }
        uses.finish()?;
        map.classes_without_parts_are_dropped();
        Ok(map)
    }

    fn class_index(&mut self, name: &str) -> usize {
        self.classes.iter().position(|c| c.name == name).unwrap_or_else(|| {
            self.classes.push(Class { name: name.to_string(), parts: Vec::new(), weights: 0 });
            self.classes.len() - 1
        })
    }

    fn add(&mut self, tensor: TensorId, spec: PartSpec, class: usize) {
        let owner = &mut self.classes[class];
        owner.weights += spec.weights();
        owner.parts.push(self.parts.len());
        let name = if spec.below.is_empty() { owner.name.clone() } else { format!("{}/{}", owner.name, spec.below) };
        self.parts.push(PartInfo { tensor, spec, class, name });
    }

    fn classes_without_parts_are_dropped(&mut self) {
        let kept: Vec<usize> = (0..self.classes.len()).filter(|i| !self.classes[*i].parts.is_empty()).collect();
        for part in &mut self.parts {
            if let Ok(index) = kept.binary_search(&part.class) {
                part.class = index;
            }
        }
        self.classes.retain(|c| !c.parts.is_empty());
    }

    /// All prunable weights.
    pub fn weights(&self) -> u64 {
        self.classes.iter().map(|c| c.weights).sum()
    }

    /// Which of the parts lie in a tensor.
    pub fn part_range(&self, tensor: TensorId) -> std::ops::Range<usize> {
        self.parts.partition_point(|p| p.tensor < tensor)..self.parts.partition_point(|p| p.tensor <= tensor)
    }

    /// The parts of a tensor; none where it is not prunable.
    pub fn parts_of(&self, tensor: TensorId) -> &[PartInfo] {
        &self.parts[self.part_range(tensor)]
    }

    /// The class of a tensor: that of its first part; `None` where it is not prunable.
    pub fn class_of_tensor(&self, tensor: TensorId) -> Option<&str> {
        self.parts_of(tensor).first().map(|p| self.classes[p.class].name.as_str())
    }

    /// Whether a glob of a stage means a part: by its class's name, its own name, or its default name.
    pub fn part_matches(&self, part: usize, pattern: &str) -> bool {
        let info = &self.parts[part];
        glob::matches(pattern, &self.classes[info.class].name)
            || glob::matches(pattern, &info.name)
            || glob::matches(pattern, &info.spec.name())
    }

    /// The parts that a stage's globs mean, in file order. A glob that means none is an error.
    pub fn select(&self, patterns: &[String]) -> Result<Vec<usize>> {
        for pattern in patterns {
            if !(0..self.parts.len()).any(|p| self.part_matches(p, pattern)) {
                return Err(self.no_match(pattern));
            }
        }
        Ok((0..self.parts.len()).filter(|p| patterns.iter().any(|g| self.part_matches(*p, g))).collect())
    }

    /// The error for a glob that means no class.
    pub fn no_match(&self, pattern: &str) -> Error {
        let names = self.classes.iter().map(|c| c.name.as_str());
        let hint = crate::error::did_you_mean(pattern, names.clone());
        let list: Vec<&str> = names.collect();
        if list.is_empty() {
            return Error::usage(
                "no tensor of the model is prunable; `compress inspect` lists them, include_1d = true takes biases and norms in",
            );
        }
        let all = list.join(", ");
        Error::usage(format!("classes: the glob \"{pattern}\" matches no class or part{hint}; the classes are {all}"))
    }
}

/// Which globs of `[classes]` matched, and which won.
struct Uses<'r> {
    globs: Vec<(&'r str, &'r str, Seen)>,
}

#[derive(Default)]
struct Seen {
    won: bool,
    shadowed_by: Option<String>,
    untouched: Option<(String, String)>,
}

impl<'r> Uses<'r> {
    fn new(rules: &'r [(String, Vec<String>)]) -> Uses<'r> {
        let globs = rules
            .iter()
            .flat_map(|(class, globs)| globs.iter().map(|g| (class.as_str(), g.as_str(), Seen::default())))
            .collect();
        Uses { globs }
    }

    fn class_of(&mut self, info: &TensorInfo, spec: &PartSpec) -> Option<&'r str> {
        let name = spec.name();
        let mut winner: Option<(&'r str, &'r str)> = None;
        for (class, pattern, seen) in &mut self.globs {
            if glob::matches(pattern, &info.name) || glob::matches(pattern, &name) {
                match winner {
                    None => {
                        winner = Some((class, pattern));
                        seen.won = true;
                    }
                    Some((_, first)) => seen.shadowed_by = Some(first.to_string()),
                }
            }
        }
        winner.map(|(class, _)| class)
    }

    fn note_untouched(&mut self, info: &TensorInfo, reason: &str) {
        for (_, pattern, seen) in &mut self.globs {
            if glob::matches(pattern, &info.name) {
                seen.untouched = Some((info.name.clone(), reason.to_string()));
            }
        }
    }

    fn finish(self) -> Result<()> {
        if let Some((class, pattern, seen)) = self.globs.iter().find(|(_, _, seen)| !seen.won) {
            let why = match (&seen.shadowed_by, &seen.untouched) {
                (Some(first), _) => format!("everything that it matches belongs to the earlier glob \"{first}\""),
                (_, Some((tensor, reason))) => {
                    format!("it matches only tensors that are left alone (\"{tensor}\": {reason})")
                }
                _ => "it matches no tensor and no part; `compress inspect` lists their names".to_string(),
            };
            return Err(Error::usage(format!("[classes] \"{class}\": the glob \"{pattern}\" has no effect: {why}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Kind, Order};
    use crate::tensor::Dtype;

    fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            shape: shape.to_vec(),
            elements: shape.iter().product(),
            stored_bytes: 0,
            dtype,
            file: 0,
            not_a_weight: None,
        }
    }

    fn part(class: &str, below: &str, offset: u64, rows: u64, cols: u64) -> PartSpec {
        let (class, below) = (class.into(), below.into());
        PartSpec { class, below, offset, rows, cols, order: Order::RowMajor, kind: Kind::Linear, groups: 1 }
    }

    fn example() -> (Vec<TensorInfo>, Roles) {
        let tensors = vec![
            tensor("emb.weight", Dtype::F32, &[4, 2]),
            tensor("lstm.w", Dtype::F32, &[2, 2]),
            tensor("attn.weight", Dtype::F32, &[2, 2]),
            tensor("attn.bias", Dtype::F32, &[2]),
            tensor("ids", Dtype::Other("I64".into(), 64), &[3, 3]),
        ];
        let roles = Roles {
            tensors: vec![
                Role::Weight(vec![part("source.embedding", "", 0, 4, 2)]),
                Role::Weight(vec![
                    part("source.layer1", "forget/below", 0, 1, 2),
                    part("source.layer1", "cell/below", 2, 1, 2),
                ]),
                Role::Weight(vec![part("attention", "", 0, 2, 2)]),
                Role::OneDimensional(vec![part("attention", "", 0, 1, 2)], "bias".into()),
                Role::Weight(vec![part("x", "", 0, 3, 3)]),
            ],
        };
        (tensors, roles)
    }

    fn rules(list: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        list.iter().map(|(c, g)| (c.to_string(), g.iter().map(|g| g.to_string()).collect())).collect()
    }

    #[test]
    fn globs_give_classes_in_written_order() {
        let (tensors, roles) = example();
        let map = ClassMap::resolve(&tensors, &roles, &rules(&[("gates", &["*/forget/*"]), ("a", &["attn*"])]), false);
        let map = map.unwrap();
        let names: Vec<(&str, u64)> = map.classes.iter().map(|c| (c.name.as_str(), c.weights)).collect();
        assert_eq!(names, [("gates", 2), ("a", 4), ("source.embedding", 8), ("source.layer1", 2)]);
        let reasons: Vec<&str> = map.untouched.iter().map(|(_, r)| r.as_str()).collect();
        assert_eq!(reasons, ["bias; include_1d is false", "its type is I64"]);
        assert_eq!(map.select(&["source.layer1/forget/*".into()]).unwrap(), [1]);
        assert_eq!(map.select(&["gates".into()]).unwrap(), [1]);
        assert_eq!(map.select(&["source.*".into()]).unwrap(), [0, 1, 2]);
        assert!(map.select(&["sorce.layer1".into()]).unwrap_err().to_string().contains("\"source.layer1\""));
    }

    #[test]
    fn include_1d_joins_biases_to_their_class() {
        let (tensors, roles) = example();
        let map = ClassMap::resolve(&tensors, &roles, &[], true).unwrap();
        assert_eq!(map.classes.iter().find(|c| c.name == "attention").unwrap().weights, 6);
    }

    #[test]
    fn globs_without_effect_are_errors() {
        let (tensors, roles) = example();
        for (list, expected) in [
            (rules(&[("a", &["nothing*"])]), "matches no tensor and no part"),
            (rules(&[("a", &["attn*"]), ("b", &["attn.weight"])]), "the earlier glob \"attn*\""),
            (rules(&[("a", &["attn.bias"])]), "left alone (\"attn.bias\": bias"),
        ] {
            let error = ClassMap::resolve(&tensors, &roles, &list, false).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.status(), 2);
        }
    }
}
