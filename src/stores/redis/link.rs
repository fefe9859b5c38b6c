//! What the worker has to do with one server: operations that wait to be sent,
//! and requests under way.

use super::connection::Connection;
use super::flight::Sharing;
use super::op::Op;
use super::server::Server;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

pub struct Link {
    pub server: Arc<Server>,
    pub queue: VecDeque<Op>,
    pub connection: Option<Connection>,
    pub connecting: bool,
    /// Requests without replies.
    pub flights: usize,
    /// What must be sent again. Nothing is sent while there is any, until all
    /// requests under way are answered: then all is put in order again.
    pub redo: Vec<Op>,
    pub redo_names: HashSet<Vec<u8>>,
    pub stalled: bool,
    /// Whether that waits for a new map of the cluster too.
    pub wants_map: bool,
    pub not_before: Option<Instant>,
    pub sharing: Sharing,
}

impl Link {
    pub fn new(server: Arc<Server>) -> Self {
        Self {
            server,
            queue: VecDeque::new(),
            connection: None,
            connecting: false,
            flights: 0,
            redo: Vec::new(),
            redo_names: HashSet::new(),
            stalled: false,
            wants_map: false,
            not_before: None,
            sharing: Sharing::default(),
        }
    }

    /// The connection, if there is one that works.
    pub fn live(&mut self) -> Option<Connection> {
        self.connection = self.connection.take().filter(Connection::is_alive);
        self.connection.clone()
    }

    pub fn again(&mut self, op: Op) {
        self.stalled = true;
        self.redo_names.insert(op.name.clone());
        self.redo.push(op);
    }

    /// Whether a reply is worth nothing, because an operation before it on the
    /// same entry has to be sent again.
    pub fn is_overtaken(&self, op: &Op) -> bool {
        !self.redo_names.is_empty() && op.may_repeat() && self.redo_names.contains(&op.name)
    }

    /// All that waits, in the order of the calls.
    pub fn take_all(&mut self) -> Vec<Op> {
        self.stalled = false;
        self.not_before = None;
        self.redo_names.clear();
        let mut all = std::mem::take(&mut self.redo);
        all.extend(self.queue.drain(..));
        all.sort_by_key(|op| op.number);
        all
    }

    /// When something has to happen without being told.
    pub fn due(&self) -> Option<Instant> {
        let first = self.queue.front().map(|op| op.patience);
        let redo = self.redo.iter().map(|op| op.patience).min();
        let patience = if self.connection.is_none() || self.stalled {
            first.into_iter().chain(redo).min()
        } else {
            None
        };
        // What is under way, or the map, ends a stall by itself.
        let pause = self
            .not_before
            .filter(|_| self.stalled && self.flights == 0 && !self.wants_map);
        patience.into_iter().chain(pause).min()
    }
}
