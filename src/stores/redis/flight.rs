//! A request under way: its operations, and which reply belongs to which.
//! Consecutive operations of one kind share a command, because that costs the
//! server less than one command each.

use super::Hub;
use super::op::{Joint, Op};
use super::resp::{Replies, Request};
use redis::{ServerError, Value};
use std::vec::IntoIter;

/// The most operations that share a command, so that other clients get their
/// turn.
const MOST: usize = 64;

/// The fewest gets that share a command. Gets that find nothing are sent a
/// second time, which takes longer than a few more commands.
const FEWEST_GETS: usize = 16;

/// Operations, and how they are divided among commands.
pub struct Flight {
    pub ops: Vec<Op>,
    shares: Vec<Share>,
}

/// What we know about shared commands on a server.
#[derive(Default)]
pub struct Sharing {
    refused: bool,
    mostly_missed: bool,
}

impl Sharing {
    /// Whether a shared command is possible and worth it.
    pub fn allows(&self, joint: Joint) -> bool {
        let in_vain = joint == Joint::Get && self.mostly_missed;
        !(self.refused || in_vain)
    }

    /// A shared command was refused: this user or this kind of server may not
    /// have it.
    pub fn refused(&mut self, error: &ServerError) {
        self.refused |= matches!(error.code(), "NOPERM" | "ERR");
    }

    /// Takes note of how many gets there were, and how many found nothing.
    pub fn answered(&mut self, gets: usize, missed: usize) {
        if gets > 0 {
            self.mostly_missed = 2 * missed > gets;
        }
    }
}

#[derive(Clone, Copy)]
enum Share {
    One,
    /// Two commands: the first one is ASKING.
    Asking,
    Joint(Joint, usize),
}

impl Flight {
    pub fn new(ops: Vec<Op>, hub: &Hub, may_join: impl Fn(Joint) -> bool, room: usize) -> (Self, Request) {
        let mut request = Request::with_capacity(room);
        let mut shares = Vec::with_capacity(ops.len());
        let joint = |op: &Op| op.joint(hub).filter(|joint| may_join(*joint));
        for run in ops.chunk_by(|a, b| joint(a).is_some() && joint(a) == joint(b)) {
            for some in run.chunks(MOST) {
                let fewest = match joint(&some[0]) {
                    Some(Joint::Get) => FEWEST_GETS,
                    Some(Joint::Missed) => 1,
                    _ => 2,
                };
                match joint(&some[0]) {
                    Some(joint) if some.len() >= fewest => {
                        Op::write_joint(joint, some, &mut request);
                        shares.push(Share::Joint(joint, some.len()));
                    }
                    _ => {
                        for op in some {
                            let asking = op.ask.is_some();
                            if asking {
                                request.command("ASKING", 0);
                            }
                            op.write(hub, &mut request);
                            shares.push(if asking { Share::Asking } else { Share::One });
                        }
                    }
                }
            }
        }
        (Self { ops, shares }, request)
    }

    /// Gives each operation its reply, in order.
    pub fn deal(self, mut replies: Replies, mut to: impl FnMut(Dealt)) {
        let mut ops = self.ops.into_iter();
        for share in self.shares {
            if matches!(share, Share::Asking) {
                replies.next();
            }
            let reply = replies.next().unwrap_or_default();
            match share {
                Share::One | Share::Asking => {
                    if let Some(op) = ops.next() {
                        to(Dealt::Reply(op, reply));
                    }
                }
                Share::Joint(joint, count) => deal_joint(joint, reply, ops.by_ref().take(count), &mut to),
            }
        }
    }
}

pub enum Dealt {
    Reply(Op, Value),
    /// A shared get found nothing.
    Missed(Op),
    /// The shared command was refused, and nothing has been carried out.
    Refused(Op, ServerError),
}

fn deal_joint(joint: Joint, reply: Value, ops: std::iter::Take<&mut IntoIter<Op>>, to: &mut impl FnMut(Dealt)) {
    match (joint, reply) {
        (Joint::Get, Value::Array(values)) if values.len() == ops.len() => {
            for (op, value) in ops.zip(values) {
                to(match value {
                    Value::Nil => Dealt::Missed(op),
                    value => Dealt::Reply(op, value),
                });
            }
        }
        (_, Value::ServerError(error)) => ops.for_each(|op| to(Dealt::Refused(op, error.clone()))),
        (_, reply) => ops.for_each(|op| to(Dealt::Reply(op, reply.clone()))),
    }
}
