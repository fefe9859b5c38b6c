//! The worker: takes all queued work, and does it in the order of the calls.

use super::super::remote::Remote;
use super::super::target::Server;
use super::Message;
use crate::kv::{Answer, Command, Job, Prefix, Reply, Result};
use crate::stores::database::queue::{Queue, Queued, Work, deliver};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;

pub struct Worker {
    server: Server,
    pub timeout: Duration,
    messages: UnboundedReceiver<Message>,
    pub queue: Queue,
    /// There once the server has been reached.
    remote: Option<Remote>,
    closed: Option<Answer>,
}

impl Worker {
    pub fn new(server: Server, timeout: Duration, messages: UnboundedReceiver<Message>) -> Self {
        Self {
            server,
            timeout,
            messages,
            queue: Queue::default(),
            remote: None,
            closed: None,
        }
    }

    /// Until the store is closed or dropped, and what was queued before is done.
    /// Returns the answer to deliver once all is released.
    pub async fn run(mut self) -> Option<Answer> {
        while self.closed.is_none() {
            if self.queue.is_empty() {
                match self.messages.recv().await {
                    Some(message) => self.take(message),
                    None => break,
                }
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            self.step().await;
        }
        self.closed
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Work(queued) => self.queue.push(queued),
            Message::Task(task) => drop(tokio::spawn(task)),
            Message::Range(start, end, limit, answer) => {
                // It comes after `Ready`. If the server was not reached, dropping
                // the answer is one.
                if let Some(remote) = self.remote.clone() {
                    spawn_local(async move {
                        // If the list is gone, it needs no answer.
                        drop(answer.send(remote.range(&start, &end, limit).await));
                    });
                }
            }
        }
    }

    /// Does the next piece of what is queued.
    async fn step(&mut self) {
        let mut group = Vec::new();
        if self.queue.take_group(&mut group, usize::MAX, None, |_| true) {
            self.run_group(group).await;
        } else if let Some(queued) = self.queue.pop() {
            self.run_alone(queued).await;
        }
    }

    /// Runs work that is not on a single entry.
    async fn run_alone(&mut self, queued: Queued) {
        let outcome = match queued.work.command() {
            Some(Command::Clear(prefix)) => self.delete_all(prefix, false).await.map(Reply::Count),
            Some(Command::Drop) => self.delete_all(&Prefix::ALL, true).await.map(|_| Reply::Done),
            Some(Command::Close) => {
                if let Work::Job(Job { answer, .. }) = queued.into_work() {
                    self.closed = Some(answer);
                }
                return;
            }
            _ => self.remote().await.map(|_| Reply::Done),
        };
        deliver([(queued, outcome)]);
    }

    /// The server, which is reached by the first operation.
    pub async fn remote(&mut self) -> Result<&Remote> {
        match &mut self.remote {
            Some(remote) => Ok(remote),
            none => {
                let remote = Remote::new(&self.server, self.timeout)?;
                remote.reach().await?;
                Ok(none.insert(remote))
            }
        }
    }
}
