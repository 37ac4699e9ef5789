//! Where the messages lie that the writer may have to change, and which message encloses which.

use std::ops::Range;

/// Index of a message in [`Spans`]; 0 is the model itself.
pub(crate) type MessageId = usize;

/// A message that holds something that may change.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The message around it; `None` for the model.
    pub(crate) parent: Option<MessageId>,
    /// The whole field, its tag included.
    pub(crate) field: Range<u64>,
    /// Its body.
    pub(crate) body: Range<u64>,
}

/// All such messages; a message comes after the one around it.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    list: Vec<Span>,
    graphs: std::collections::HashSet<MessageId>,
}

impl Spans {
    /// With the model, which fills its file.
    pub(crate) fn new(bytes: u64) -> Self {
        Spans { list: vec![Span { parent: None, field: 0..bytes, body: 0..bytes }], graphs: Default::default() }
    }

    /// Adds a message.
    pub(crate) fn add(&mut self, parent: MessageId, field: Range<u64>, body: Range<u64>) -> MessageId {
        self.list.push(Span { parent: Some(parent), field, body });
        self.list.len() - 1
    }

    /// Adds a graph.
    pub(crate) fn add_graph(&mut self, parent: MessageId, field: Range<u64>, body: Range<u64>) -> MessageId {
        let id = self.add(parent, field, body);
        self.graphs.insert(id);
        id
    }

    /// Whether a message is a graph.
    pub(crate) fn is_graph(&self, id: MessageId) -> bool {
        self.graphs.contains(&id)
    }

    /// A message.
    pub(crate) fn get(&self, id: MessageId) -> &Span {
        &self.list[id]
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
}
