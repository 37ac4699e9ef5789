//! The class of each weight: embeddings, recurrent layers, products.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use compress_core::class::{Kind, PartSpec, Role, names};
use compress_core::tensor::{Dtype, TensorId, TensorInfo};

use super::attention::{self, Core, Label, Marks};
use super::claims::{Claims, whole};
use super::facts::{FLOATS, Facts, Inputs, other};
use super::flow::{Flow, ValueId};
use super::products::{Place, Product};
use super::trace::Tracer;
use super::{naming, recurrent};
use crate::list::List;

/// A table that ids select rows of.
struct Table {
    node: usize,
    table: ValueId,
    /// Inputs that say which rows.
    ids: Inputs,
    /// Inputs on which the choice depends in any way.
    any: Inputs,
}

/// A recurrent layer.
struct Layer {
    node: usize,
    class: String,
}

/// What the operations with weights are.
pub(crate) struct Classes<'a, 'm> {
    flow: &'a Flow<'m>,
    facts: &'a Facts,
    list: &'a List,
    tables: Vec<(Table, String)>,
    layers: Vec<Layer>,
    products: Vec<(Product, String)>,
    /// The class of each operation that is a recurrent layer or a product.
    by_node: HashMap<usize, String>,
    /// The class of what made a value: for biases.
    made_by: HashMap<ValueId, String>,
    /// Classes by name, where the name tells something.
    named: Vec<Option<String>>,
    /// Parts of each product's weight.
    places: HashMap<usize, Vec<Place>>,
    /// What a product makes for an attention, by its operation.
    labels: BTreeMap<usize, BTreeSet<Label>>,
}

/// The sequences of a model.
struct Sequences {
    /// All inputs that select rows of tables.
    ids: Inputs,
    /// The source sentence's, in a translation model.
    source: Option<Inputs>,
}

impl Sequences {
    /// `source.`, `target.`, or nothing where the model does not translate.
    fn side(&self, depends_on: Inputs) -> &'static str {
        match self.source {
            Some(source) if depends_on & self.ids == source => "source.",
            Some(_) => "target.",
            None => "",
        }
    }
}

impl<'a, 'm> Classes<'a, 'm> {
    pub(crate) fn new(flow: &'a Flow<'m>, facts: &'a Facts, list: &'a List, tracer: &Tracer<'a, 'm>) -> Self {
        let tables = tables(flow, facts);
        let products: Vec<Product> = (0..flow.nodes.len()).filter_map(|n| Product::of(flow, facts, n)).collect();
        let places: HashMap<usize, Vec<Place>> = products.iter().map(|p| (p.node, p.places(tracer))).collect();
        let sequences = sequences(flow, facts, &tables, &products);
        let mut this = Classes {
            flow,
            facts,
            list,
            tables: Vec::new(),
            layers: recurrent_layers(flow, facts, &sequences),
            products: Vec::new(),
            by_node: HashMap::new(),
            made_by: HashMap::new(),
            named: Vec::new(),
            places,
            labels: BTreeMap::new(),
        };
        this.by_node = this.layers.iter().map(|l| (l.node, l.class.clone())).collect();
        this.named = this.names(&tables, &products);
        this.tables = this.name_tables(tables, &sequences);
        let cores = this.cores(&products);
        this.products = this.name_products(products, &cores, &sequences);
        for (product, class) in &this.products {
            this.made_by.insert(product.out, class.clone());
            this.by_node.insert(product.node, class.clone());
        }
        this
    }

    /// The class of the operation that made a value, biases and reshaping left aside.
    pub(crate) fn made_by(&self, value: ValueId) -> Option<&str> {
        let mut value = value;
        for _ in 0..8 {
            if let Some(class) = self.made_by.get(&value) {
                return Some(class);
            }
            let node = self.flow.producer(value)?;
            match node.op() {
                "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Cast" | "Identity" | "Split" | "Slice"
                | "Gather" | "Flatten" => value = node.input(0)?,
                _ => return None,
            }
        }
        None
    }

    /// The class that a tensor's name, or that of the operation which uses it, stands for.
    pub(crate) fn named(&self, tensor: TensorId) -> Option<&str> {
        self.named[tensor].as_deref()
    }

    /// The class of an operation that is a recurrent layer or a product.
    pub(crate) fn of_node(&self, node: usize) -> Option<&str> {
        self.by_node.get(&node).map(String::as_str)
    }

    /// The float tensors that a constant expression is made of.
    pub(crate) fn leaves(&self, value: ValueId) -> Vec<TensorId> {
        let (mut open, mut seen, mut out) = (vec![value], BTreeSet::from([value]), Vec::new());
        while let Some(value) = open.pop() {
            if let Some(tensor) = self.flow.values[value].tensor {
                if self.list.infos[tensor].dtype.float_bytes().is_some() && !out.contains(&tensor) && out.len() < 64 {
                    out.push(tensor);
                }
                continue;
            }
            for input in self.flow.producer(value).into_iter().flat_map(|n| n.inputs.iter().flatten()) {
                if seen.len() < 4096 && self.facts.constant[*input] && seen.insert(*input) {
                    open.push(*input);
                }
            }
        }
        out
    }

    /// Claims the tensors of all tables, recurrent layers and products, in the order of the data flow.
    pub(crate) fn claim_weights(&self, tracer: &Tracer<'_, '_>, claims: &mut Claims) {
        let mut order: BTreeMap<usize, Vec<(TensorId, PartSpec)>> = BTreeMap::new();
        for (table, class) in &self.tables {
            order.insert(table.node, self.table_parts(tracer, table, class));
        }
        for layer in &self.layers {
            order.insert(layer.node, self.layer_parts(tracer, layer));
        }
        for (product, class) in &self.products {
            order.insert(product.node, self.product_parts(product, class));
        }
        for (tensor, spec) in order.into_values().flatten() {
            claims.weight(tensor, spec);
        }
    }

    fn table_parts(&self, tracer: &Tracer<'_, '_>, table: &Table, class: &str) -> Vec<(TensorId, PartSpec)> {
        let traced = tracer.shape(table.table).filter(|s| s.len() >= 2 && !s.contains(&0)).and_then(|shape| {
            let cols = shape[1..].iter().product();
            let block = tracer.block(table.table, shape[0], cols, |r, c| {
                let (mut index, mut rest) = (vec![0; shape.len()], c);
                for (i, d) in index.iter_mut().zip(&shape).skip(1).rev() {
                    (*i, rest) = (rest % d, rest / d);
                }
                index[0] = r;
                index
            })?;
            let spec = PartSpec {
                class: class.to_string(),
                below: String::new(),
                offset: block.offset,
                rows: shape[0],
                cols,
                order: block.order,
                kind: Kind::Embedding,
                groups: 1,
            };
            Some(vec![(block.tensor, spec)])
        });
        traced.unwrap_or_else(|| self.wholes(table.table, class, "", Kind::Embedding))
    }

    fn layer_parts(&self, tracer: &Tracer<'_, '_>, layer: &Layer) -> Vec<(TensorId, PartSpec)> {
        let node = &self.flow.nodes[layer.node];
        let mut parts = Vec::new();
        for (i, recurrent) in [(1, false), (2, true)] {
            let Some(value) = node.input(i).filter(|v| self.facts.constant[*v]) else { continue };
            let (below, kind) =
                if recurrent { ("recurrent", Kind::Recurrent) } else { ("below", Kind::RecurrentInput) };
            let traced = recurrent::parts(tracer, node, value, recurrent, &layer.class);
            parts.extend(traced.unwrap_or_else(|| self.wholes(value, &layer.class, below, kind)));
        }
        parts
    }

    fn product_parts(&self, product: &Product, class: &str) -> Vec<(TensorId, PartSpec)> {
        let places = &self.places[&product.node];
        if places.is_empty() {
            return self.wholes(product.weight, class, "", if product.is_conv { Kind::Conv } else { Kind::Linear });
        }
        let label = self.labels.get(&product.node).map(attention::words);
        let part = |place: &Place| {
            let is_all = place.rows * place.cols == self.list.infos[place.tensor].elements;
            let below = match &label {
                Some(label) if !is_all && class.ends_with(".qkv") => label.clone(),
                _ => String::new(),
            };
            let spec = PartSpec {
                class: class.to_string(),
                below,
                offset: place.offset,
                rows: place.rows,
                cols: place.cols,
                order: place.order,
                kind: place.kind,
                groups: place.groups,
            };
            (place.tensor, spec)
        };
        places.iter().map(part).collect()
    }

    /// All tensors of two or more dimensions behind a value, whole: it could not be traced to blocks.
    fn wholes(&self, value: ValueId, class: &str, below: &str, kind: Kind) -> Vec<(TensorId, PartSpec)> {
        let leaves = self.leaves(value).into_iter();
        leaves
            .filter(|t| self.list.infos[*t].shape.len() >= 2 && !self.list.infos[*t].name.ends_with("_mask"))
            .map(|t| (t, PartSpec { below: below.to_string(), ..whole(&self.list.infos[t], class, kind) }))
            .collect()
    }

    /// The classes that names stand for: a tensor's own, else that of the operation which uses it.
    fn names(&self, tables: &[Table], products: &[Product]) -> Vec<Option<String>> {
        let mut by_node: HashMap<TensorId, &str> = HashMap::new();
        let uses = tables.iter().map(|t| (t.node, t.table)).chain(products.iter().map(|p| (p.node, p.weight)));
        for (node, value) in uses {
            for tensor in self.leaves(value) {
                by_node.entry(tensor).or_insert(&self.flow.nodes[node].node.name);
            }
        }
        let telling = |(id, info): (usize, &TensorInfo)| match naming::from_tensor(&info.name) {
            Some(_) => Some(info.name.replace("_orig", "")),
            None => by_node.get(&id).and_then(|name| naming::from_node(name)).map(|path| format!("{path}.weight")),
        };
        let found: Vec<Option<String>> = self.list.infos.iter().enumerate().map(telling).collect();
        let rename = |(info, name): (&TensorInfo, &Option<String>)| TensorInfo {
            name: name.clone().unwrap_or_else(|| "nameless".into()),
            dtype: Dtype::F32,
            ..info.clone()
        };
        let renamed: Vec<TensorInfo> = self.list.infos.iter().zip(&found).map(rename).collect();
        let class = |(role, name): (&Role, &Option<String>)| match role {
            Role::Weight(parts) | Role::OneDimensional(parts, _) if name.is_some() => {
                parts.first().map(|p| p.class.clone())
            }
            _ => None,
        };
        names::roles(&renamed).tensors.iter().zip(&found).map(class).map(|c| c.filter(|c| !c.is_empty())).collect()
    }

    fn name_tables(&self, tables: Vec<Table>, sequences: &Sequences) -> Vec<(Table, String)> {
        let mut count: HashMap<&str, usize> = HashMap::new();
        let name = |table: Table| {
            let side = sequences.side(if table.ids != 0 { table.ids } else { table.any });
            let named = self.leaves(table.table).first().and_then(|t| self.named(*t));
            let after =
                named.and_then(|n| n.find("embedding").map(|at| &n[at..])).filter(|n| n.starts_with("embedding"));
            let class = match (side, named, after) {
                ("", Some(named), Some(_)) => named.to_string(),
                (_, _, Some(after)) => format!("{side}{after}"),
                _ if table.ids == 0 && table.any != 0 => format!("{side}embedding.position"),
                _ => {
                    let n = count.entry(side).or_default();
                    *n += 1;
                    if *n == 1 { format!("{side}embedding") } else { format!("{side}embedding{n}") }
                }
            };
            (table, class)
        };
        tables.into_iter().map(name).collect()
    }

    fn cores(&self, products: &[Product]) -> Vec<Core> {
        let mut product = vec![false; self.flow.nodes.len()];
        products.iter().for_each(|p| product[p.node] = !p.is_conv);
        let mut stop = vec![false; self.flow.nodes.len()];
        self.layers.iter().for_each(|l| stop[l.node] = true);
        self.tables.iter().for_each(|(t, _)| stop[t.node] = true);
        attention::cores(self.flow, self.facts, &Marks { product: &product, stop: &stop })
    }

    fn name_products(
        &mut self,
        products: Vec<Product>,
        cores: &[Core],
        sequences: &Sequences,
    ) -> Vec<(Product, String)> {
        let recurrent = !self.layers.is_empty();
        let mut blocks = Blocks::of(self.flow, self.facts, cores, sequences);
        for product in &products {
            let named = self.leaves(product.weight).first().and_then(|t| self.named(*t));
            if let Some(prefix) = named.and_then(block_prefix) {
                blocks.learn(product.node, prefix);
            }
        }
        for core in cores {
            for (node, labels) in &core.products {
                self.labels.entry(*node).or_default().extend(labels);
            }
        }
        let last = last_products(self.flow, self.facts, &products);
        // A decoder alone: attention over what another model made.
        let decoder = cores.iter().any(|c| c.value.is_some_and(|v| self.facts.content[v] & FLOATS != 0));
        let head = if sequences.source.is_some() || (recurrent && decoder) { "softmax" } else { "classifier" };
        let feeds = FeedForward::of(self.flow, self.facts, &products);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut out = Vec::new();
        for (i, product) in products.iter().enumerate() {
            let named = self.leaves(product.weight).first().and_then(|t| self.named(*t)).map(str::to_string);
            let in_layer = named.clone().filter(|_| !recurrent).filter(|n| has_layer(n));
            let label = self.labels.get(&product.node);
            let class = match (in_layer, label) {
                (Some(class), Some(label)) if class.ends_with("attention") => {
                    format!("{class}.{}", attention::words(label))
                }
                (Some(class), _) => class,
                (None, _) if last[i] && !product.is_conv => match named.as_deref() {
                    Some(named @ ("softmax" | "classifier")) if sequences.source.is_none() => named.to_string(),
                    _ => head.to_string(),
                },
                (None, Some(_)) if recurrent => "attention".to_string(),
                (None, Some(label)) => blocks.attention(product.node, label),
                (None, None) if product.is_conv => {
                    let n = counts.entry("conv").or_default();
                    *n += 1;
                    format!("conv{n}")
                }
                (None, None) => match feeds.role(self.flow, product) {
                    Some(role) if !recurrent && blocks.level(product.data) > 0 => {
                        let side = sequences.side(self.facts.content[product.data]);
                        format!("{}.mlp.{role}", blocks.prefix(side, blocks.level(product.data)))
                    }
                    _ => named.unwrap_or_else(|| {
                        let n = counts.entry("linear").or_default();
                        *n += 1;
                        format!("{}linear{n}", sequences.side(self.facts.content[product.data]))
                    }),
                },
            };
            out.push((product.clone(), class));
        }
        out
    }
}

/// Whether a class names a numbered layer.
fn has_layer(class: &str) -> bool {
    class
        .split('.')
        .any(|s| s.strip_prefix("layer").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
}

/// What precedes the attention in a class: `encoder.layer0`.
fn block_prefix(class: &str) -> Option<&str> {
    let at = class.find(".cross_attention").or_else(|| class.find(".attention"))?;
    Some(&class[..at]).filter(|prefix| has_layer(prefix))
}

/// Gathers of rows by data.
fn tables(flow: &Flow<'_>, facts: &Facts) -> Vec<Table> {
    let mut tables = Vec::new();
    for (n, node) in flow.nodes.iter().enumerate() {
        let pairs: &[(usize, usize)] = match node.op() {
            "Gather" if node.node.int("axis").unwrap_or(0) == 0 => &[(0, 1)],
            "EmbedLayerNormalization" => &[(2, 0), (3, 0), (4, 1)],
            _ => continue,
        };
        for (table, ids) in pairs {
            let (Some(table), Some(ids)) = (node.input(*table), node.input(*ids)) else { continue };
            let runtime = !facts.constant[ids] && flow.values[ids].tensor.is_none() && facts.any[ids] != 0;
            if facts.constant[table] && runtime {
                tables.push(Table { node: n, table, ids: facts.content[ids] & !FLOATS, any: facts.any[ids] });
            }
        }
    }
    tables
}

/// Which inputs are sentences. A model translates if what depends on one of them alone goes through a layer before it
/// meets another: in BERT the segment ids are added to the tokens at once.
fn sequences(flow: &Flow<'_>, facts: &Facts, tables: &[Table], products: &[Product]) -> Sequences {
    let ids = tables.iter().fold(0, |all, t| all | t.ids);
    let mut uses: Vec<Inputs> = products.iter().map(|p| facts.content[p.data] & ids).collect();
    for node in &flow.nodes {
        if recurrent::gates(node.op()).is_some() {
            uses.push(node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]) & ids);
        }
    }
    let alone = (0..62).map(|i| 1 << i).find(|bit| ids & bit != 0 && uses.contains(bit));
    let source = alone.filter(|bit| uses.iter().any(|u| *u != 0 && u != bit));
    Sequences { ids, source }
}

/// Recurrent layers, numbered from the lowest of each side.
fn recurrent_layers(flow: &Flow<'_>, facts: &Facts, sequences: &Sequences) -> Vec<Layer> {
    let sides = ["source.", "target.", ""];
    // How many layers of each side lie below a value.
    let mut below = vec![[0usize; 3]; flow.values.len()];
    let mut layers = Vec::new();
    for (n, node) in flow.nodes.iter().enumerate() {
        let mut depth = [0; 3];
        for input in node.inputs.iter().flatten() {
            (0..3).for_each(|s| depth[s] = depth[s].max(below[*input][s]));
        }
        let weighted = [1, 2].iter().any(|i| node.input(*i).is_some_and(|v| facts.constant[v]));
        if recurrent::gates(node.op()).is_some() && weighted {
            let side = sequences.side(node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]));
            let s = sides.iter().position(|x| *x == side).unwrap_or(2);
            // Only what it reads step by step is below it; its first state may come from anywhere.
            let number = node.input(0).map_or(0, |x| below[x][s]) + 1;
            depth[s] = depth[s].max(number);
            layers.push(Layer { node: n, class: format!("{side}layer{number}") });
        }
        node.outputs.iter().for_each(|o| below[*o] = depth);
    }
    layers
}

/// Products after which there is no other on the way to an output.
fn last_products(flow: &Flow<'_>, facts: &Facts, products: &[Product]) -> Vec<bool> {
    let mut at: HashMap<usize, usize> = products.iter().enumerate().map(|(i, p)| (p.node, i)).collect();
    at.retain(|_, i| !products[*i].is_conv || facts.reaches_output[products[*i].out]);
    // Whether a value leads to another product, a recurrent layer, or a norm.
    let mut leads = vec![false; flow.values.len()];
    let mut last = vec![false; products.len()];
    for (n, node) in flow.nodes.iter().enumerate().rev() {
        let after = node.outputs.iter().any(|o| leads[*o]);
        let is_norm = node.op().ends_with("Normalization") && !node.op().starts_with("Batch");
        let is_layer = at.contains_key(&n) || recurrent::gates(node.op()).is_some() || is_norm;
        if let Some(i) = at.get(&n) {
            last[*i] = !after && facts.reaches_output[products[*i].out];
        }
        if after || is_layer {
            node.inputs.iter().flatten().for_each(|i| leads[*i] = true);
        }
    }
    last
}

/// The feed-forward blocks of a model: what goes down is added to what went past the block, what goes up leads there.
struct FeedForward {
    /// Whether an operation is a product, and one that goes down.
    is_down: HashMap<usize, bool>,
}

impl FeedForward {
    fn of(flow: &Flow<'_>, facts: &Facts, products: &[Product]) -> Self {
        FeedForward { is_down: products.iter().map(|p| (p.node, goes_down(flow, facts, p))).collect() }
    }

    fn role(&self, flow: &Flow<'_>, product: &Product) -> Option<&'static str> {
        if self.is_down.get(&product.node) == Some(&true) {
            return Some("down");
        }
        let (mut open, mut seen, mut found) = (vec![product.out], BTreeSet::new(), false);
        while let Some(value) = open.pop() {
            for (n, _) in flow.values[value].consumers.iter().take(64) {
                match self.is_down.get(n) {
                    Some(true) => found = true,
                    None if seen.len() < 256 => {
                        open.extend(flow.nodes[*n].outputs.iter().filter(|o| seen.insert(**o)));
                    }
                    _ => return None,
                }
            }
        }
        found.then_some("up")
    }
}

/// Whether a product's result is added to other data.
fn goes_down(flow: &Flow<'_>, facts: &Facts, product: &Product) -> bool {
    let mut value = product.out;
    for _ in 0..12 {
        let [(n, _)] = flow.values[value].consumers[..] else { return false };
        let node = &flow.nodes[n];
        match (node.op(), other(node, value)) {
            ("Add", Some(other)) if !facts.constant[other] && facts.content[other] != 0 => return true,
            ("SkipLayerNormalization" | "SkipSimplifiedLayerNormalization", _) => return true,
            ("Add" | "Mul" | "Cast" | "Dropout" | "Identity" | "Reshape" | "Transpose", _) => {}
            _ => return false,
        }
        let Some(next) = node.outputs.first() else { return false };
        value = *next;
    }
    false
}

/// The attention blocks of a model, numbered from the lowest of each side.
struct Blocks {
    /// Of each product of an attention: side, number, whether it looks at the other sentence.
    of_product: BTreeMap<usize, (&'static str, usize, bool)>,
    /// How many blocks lie below a value.
    below: Vec<usize>,
    /// What names call a block, where some of its weights have names: `encoder.layer0`.
    names: BTreeMap<(&'static str, usize), String>,
}

impl Blocks {
    fn of(flow: &Flow<'_>, facts: &Facts, cores: &[Core], sequences: &Sequences) -> Blocks {
        let by_context: HashMap<usize, &Core> = cores.iter().map(|c| (c.context, c)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let (of_product, names) = Default::default();
        let mut blocks = Blocks { of_product, below: vec![0; flow.values.len()], names };
        for (n, node) in flow.nodes.iter().enumerate() {
            let ids = |v: Option<ValueId>| v.map(|v| facts.content[v] & sequences.ids);
            let depends = node.inputs.iter().flatten().fold(0, |all, i| all | facts.content[*i]);
            let side = sequences.side(depends);
            let same_side = |v: &&ValueId| sequences.side(facts.content[**v]) == side;
            let mut depth = node.inputs.iter().flatten().filter(same_side).map(|i| blocks.below[*i]).max().unwrap_or(0);
            if let Some(core) = by_context.get(&n) {
                let cross = core.query.is_some() && ids(core.query) != ids(core.value);
                let count = counts.entry(side).or_default();
                if !cross || *count == 0 {
                    *count += 1;
                }
                depth = *count;
                for product in core.products.keys() {
                    blocks.of_product.entry(*product).or_insert((side, depth, cross));
                }
            }
            node.outputs.iter().for_each(|o| blocks.below[*o] = depth);
        }
        blocks
    }

    fn level(&self, value: ValueId) -> usize {
        self.below[value]
    }

    fn attention(&self, product: usize, labels: &BTreeSet<Label>) -> String {
        let (side, number, cross) = self.of_product.get(&product).copied().unwrap_or(("", 1, false));
        let name = if cross { "cross_attention" } else { "attention" };
        format!("{}.{name}.{}", self.prefix(side, number), attention::words(labels))
    }

    fn learn(&mut self, product: usize, prefix: &str) {
        if let Some((side, number, _)) = self.of_product.get(&product) {
            self.names.entry((side, *number)).or_insert_with(|| prefix.to_string());
        }
    }

    fn prefix(&self, side: &'static str, number: usize) -> String {
        self.names.get(&(side, number)).cloned().unwrap_or_else(|| format!("{side}layer{number}"))
    }
}
