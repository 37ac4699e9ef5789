//! All tensors of a model in file order, under names that are unique.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use compress_core::tensor::{Dtype, TensorId, TensorInfo};

use crate::model::{Attribute, DataType, Graph, MessageId, Model, Node, Place, SparseRef, TensorRef};

/// A tensor of the list and where it stands in the model.
#[derive(Clone, Debug)]
pub(crate) enum Site {
    /// An initialiser or a tensor attribute.
    Tensor(TensorRef),
    /// A sparse initialiser (`true`) or attribute.
    Sparse(SparseRef, bool),
    /// `X_orig` and `X_mask` of `torch.nn.utils.prune`, whose product is X.
    Pair(TensorRef, TensorRef),
    /// A constant that is no tensor in the file: `value_float`, `value_ints`, …
    Memory(Vec<u8>),
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct List {
    pub(crate) infos: Vec<TensorInfo>,
    pub(crate) sites: Vec<Site>,
    /// The number of the tensor that is this message.
    pub(crate) by_message: HashMap<MessageId, TensorId>,
    /// The initialisers that packed tensors are made of, and their files.
    pub(crate) parts: Vec<(TensorRef, usize)>,
    /// Which of them a packed tensor is made of.
    pub(crate) parts_of: HashMap<TensorId, Range<usize>>,
}

impl List {
    /// Lists the tensors of a model. `file_of` numbers the files that hold them.
    pub(crate) fn of(model: &Model, file_of: impl Fn(&TensorRef) -> usize) -> List {
        let mut found = Vec::new();
        Walk { model, found: &mut found }.graph(&model.graph, "");
        for function in &model.functions {
            let prefix = format!("{}::{}/", function.domain, function.name);
            Walk { model, found: &mut found }.nodes(&function.nodes, &prefix);
        }
        found.sort_by_key(|f| f.position);
        let mut list = List::default();
        let mut used: HashMap<String, usize> = HashMap::new();
        for Found { mut name, site, reason, .. } in found {
            // Each name remembers the last number that was put behind it, so that many equal ones cost no more.
            while let Some(last) = used.get_mut(&name) {
                *last += 1;
                name = format!("{name}#{last}");
            }
            used.insert(name.clone(), 1);
            let id = list.infos.len();
            let info = match &site {
                Site::Tensor(t) | Site::Pair(t, _) => {
                    list.by_message.insert(t.message, id);
                    if let Place::Packed(packed) = &t.place {
                        let first = list.parts.len();
                        list.parts.extend(packed.parts.iter().map(|p| (p.clone(), file_of(p))));
                        list.parts_of.insert(id, first..list.parts.len());
                    }
                    let stored = t.stored_bytes();
                    let shape = (t.dims.clone(), t.data_type, t.elements);
                    describe(name, shape, stored, file_of(t))
                }
                Site::Sparse(s, _) => {
                    list.by_message.insert(s.message, id);
                    let shape = (s.dims.clone(), s.values.data_type, s.elements);
                    describe(name, shape, s.stored_bytes(), file_of(&s.values))
                }
                Site::Memory(bytes) => {
                    let data_type = if reason.starts_with("float") { DataType::FLOAT } else { DataType::INT64 };
                    let elements = bytes.len() as u64 * 8 / u64::from(data_type.bits());
                    describe(name, (vec![elements], data_type, elements), bytes.len() as u64, 0)
                }
            };
            let reason = Some(reason).filter(|r| !r.is_empty());
            list.infos.push(TensorInfo { not_a_weight: reason.or(info.not_a_weight), ..info });
            list.sites.push(site);
        }
        list
    }
}

fn describe(
    name: String,
    (shape, data_type, elements): (Vec<u64>, DataType, u64),
    stored: u64,
    file: usize,
) -> TensorInfo {
    let dtype = data_type.dtype();
    let not_a_weight = match &dtype {
        Dtype::Other(name, _) => Some(name.clone()),
        _ if elements == 0 => Some("it has no elements".into()),
        _ if shape.is_empty() => Some("scalar".into()),
        _ => None,
    };
    TensorInfo { name, shape, dtype, elements, stored_bytes: stored, file, not_a_weight }
}

/// A tensor on its way into the list.
struct Found {
    position: u64,
    name: String,
    site: Site,
    /// Why it is no weight; empty where nothing is known.
    reason: String,
}

struct Walk<'a> {
    model: &'a Model,
    found: &'a mut Vec<Found>,
}

impl Walk<'_> {
    fn add(&mut self, message: MessageId, name: String, site: Site, reason: &str) {
        let position = self.model.spans.get(message).field.start;
        self.found.push(Found { position, name, site, reason: reason.into() });
    }

    fn graph(&mut self, graph: &Graph, prefix: &str) {
        let pairs = pairs(graph);
        let masks: HashSet<&str> = pairs.values().map(|mask| mask.name.as_str()).collect();
        for tensor in &graph.initializers {
            let (name, site, reason) = match pairs.get(tensor.name.as_str()) {
                Some(mask) => {
                    let base = tensor.name.trim_end_matches("_orig");
                    (base, Site::Pair(tensor.clone(), (*mask).clone()), String::new())
                }
                None => {
                    let is_mask = masks.contains(tensor.name.as_str());
                    let reason =
                        if is_mask { format!("mask of {}", tensor.name.replace("_mask", "")) } else { String::new() };
                    (tensor.name.as_str(), Site::Tensor(tensor.clone()), reason)
                }
            };
            self.add(tensor.message, format!("{prefix}{name}"), site, &reason);
        }
        for sparse in &graph.sparse_initializers {
            let name = format!("{prefix}{}", sparse.values.name);
            self.add(sparse.message, name, Site::Sparse(sparse.clone(), true), "");
        }
        self.nodes(&graph.nodes, prefix);
    }

    fn nodes(&mut self, nodes: &[Node], prefix: &str) {
        for node in nodes {
            let label = label(node);
            for (name, attribute) in &node.attributes {
                match attribute {
                    Attribute::Graph(graph) => self.graph(graph, &format!("{prefix}{label}/{name}/")),
                    Attribute::Graphs(graphs) => {
                        for (i, graph) in graphs.iter().enumerate() {
                            self.graph(graph, &format!("{prefix}{label}/{name}[{i}]/"));
                        }
                    }
                    _ if is_constant(node) => self.constant(node, attribute, prefix),
                    Attribute::Tensor(t) if t.elements > 1 => {
                        let reason = format!("attribute of {}", node.op_type);
                        self.add(t.message, format!("{prefix}{label}/{name}"), Site::Tensor((**t).clone()), &reason);
                    }
                    _ => {}
                }
            }
        }
    }

    fn constant(&mut self, node: &Node, attribute: &Attribute, prefix: &str) {
        let name = format!("{prefix}{}", node.outputs.first().map_or("", String::as_str));
        let memory = |bytes: Vec<u8>| Site::Memory(bytes);
        let (site, reason) = match attribute {
            Attribute::Tensor(t) => return self.add(t.message, name, Site::Tensor((**t).clone()), ""),
            Attribute::Sparse(s) => {
                return self.add(s.message, name, Site::Sparse((**s).clone(), false), "sparse constant of a node");
            }
            Attribute::Float(f) => (memory(f.to_le_bytes().into()), "float constant"),
            Attribute::Int(i) => (memory(i.to_le_bytes().into()), "integer constant"),
            Attribute::Floats(f) => (memory(f.iter().flat_map(|f| f.to_le_bytes()).collect()), "float constants"),
            Attribute::Ints(i) => (memory(i.iter().flat_map(|i| i.to_le_bytes()).collect()), "integer constants"),
            _ => return,
        };
        self.found.push(Found { position: node.position, name, site, reason: reason.into() });
    }
}

/// Whether a node only makes a constant.
pub(crate) fn is_constant(node: &Node) -> bool {
    node.op_type == "Constant" && node.is_standard()
}

/// What a node is called in tensor names: its name, or its first output.
pub(crate) fn label(node: &Node) -> &str {
    let output = || node.outputs.iter().find(|o| !o.is_empty()).map_or("", String::as_str);
    if node.name.is_empty() { output() } else { &node.name }
}

/// Pairs `X_orig`, `X_mask` that a product joins, by the original's name.
fn pairs(graph: &Graph) -> HashMap<&str, &TensorRef> {
    let by_name: HashMap<&str, &TensorRef> = graph.initializers.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut pairs = HashMap::new();
    for node in graph.nodes.iter().filter(|n| n.op_type == "Mul" && n.is_standard()) {
        let [a, b] = node.inputs.as_slice() else { continue };
        for (orig, mask) in [(a, b), (b, a)] {
            let Some(base) = orig.strip_suffix("_orig") else { continue };
            let named = mask.strip_suffix("_mask") == Some(base) && !by_name.contains_key(base);
            let (Some(orig), Some(mask)) = (by_name.get(orig.as_str()), by_name.get(mask.as_str())) else { continue };
            let readable = |t: &TensorRef| {
                matches!(t.place, Place::Raw { .. } | Place::Typed(_) | Place::External(_) | Place::Packed(_))
            };
            let fits = orig.dims == mask.dims && orig.data_type == mask.data_type && orig.data_type.is_float();
            if named && fits && readable(orig) && readable(mask) {
                pairs.insert(orig.name.as_str(), *mask);
            }
        }
    }
    // An original that something else reads as well is not only X.
    let mut uses: HashMap<&str, usize> = pairs.keys().map(|orig| (*orig, 0)).collect();
    for input in graph.nodes.iter().flat_map(|n| &n.inputs) {
        if let Some(count) = uses.get_mut(input.as_str()) {
            *count += 1;
        }
    }
    pairs.retain(|orig, _| uses[orig] == 1);
    pairs
}
