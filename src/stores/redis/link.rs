//! The worker's state for one server: the queued operations, and the requests
//! under way.

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
    /// Operations to send again. While there are any, nothing is sent until all
    /// requests under way are answered; then all operations are put in order
    /// again.
    pub redo: Vec<Op>,
    pub redo_names: HashSet<Vec<u8>>,
    pub stalled: bool,
    /// Whether this also waits for a new map of the cluster.
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

    /// The connection, if it works.
    pub fn live(&mut self) -> Option<Connection> {
        self.connection = self.connection.take().filter(Connection::is_alive);
        self.connection.clone()
    }

    pub fn again(&mut self, op: Op) {
        self.stalled = true;
        self.redo_names.insert(op.name.clone());
        self.redo.push(op);
    }

    /// Whether a reply is to be ignored, because an earlier operation on the
    /// same entry has to be sent again.
    pub fn is_overtaken(&self, op: &Op) -> bool {
        !self.redo_names.is_empty() && op.may_repeat() && self.redo_names.contains(&op.name)
    }

    /// All queued operations, in the order of the calls.
    pub fn take_all(&mut self) -> Vec<Op> {
        self.stalled = false;
        self.not_before = None;
        self.redo_names.clear();
        let mut all = std::mem::take(&mut self.redo);
        all.extend(self.queue.drain(..));
        all.sort_by_key(|op| op.number);
        all
    }

    /// When the worker has to look at this link even if no event comes.
    pub fn due(&self) -> Option<Instant> {
        let first = self.queue.front().map(|op| op.patience);
        let redo = self.redo.iter().map(|op| op.patience).min();
        let patience = if self.connection.is_none() || self.stalled {
            first.into_iter().chain(redo).min()
        } else {
            None
        };
        // Requests under way, or the map, will end the stall with an event.
        let pause = self
            .not_before
            .filter(|_| self.stalled && self.flights == 0 && !self.wants_map);
        patience.into_iter().chain(pause).min()
    }
}
