//! The class of each weight: embeddings, recurrent layers, products.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use compress_core::class::{Kind, PartSpec, Role, names};
use compress_core::tensor::{Dtype, TensorId, TensorInfo};

use super::attention::{self, Core, Label, Marks};
use super::blocks::{Blocks, FeedForward, block_prefix, has_layer, last_products};
use super::claims::{Claims, whole};
use super::facts::{FLOATS, Facts};
use super::flow::{Flow, ValueId};
use super::products::{Place, Product};
use super::sequences::{Layer, Sequences, Table, recurrent_layers, sequences, tables};
use super::trace::Tracer;
use super::{naming, recurrent};
use crate::list::List;

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
        let part = |(i, place): (usize, &Place)| {
            let is_all = place.rows * place.cols == self.list.infos[place.tensor].elements;
            let below = match &label {
                Some(label) if !is_all && class.ends_with(".qkv") => label.clone(),
                _ if places.len() > 1 => i.to_string(),
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
        places.iter().enumerate().map(part).collect()
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
