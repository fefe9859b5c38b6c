//! The task that owns a connection, and the clients that give it commands. It belongs
//! to one host, and the clients may be on any. While there is nothing to do, it
//! notices that the connection ends.

use super::answer::{Answer, Command};
use super::failure::{Failure, ServerError};
use super::wire::Wire;
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// A command, and where its answer goes.
type Request = (Command, oneshot::Sender<Result<Answer, Failure>>);

#[derive(Clone)]
pub struct Client {
    requests: UnboundedSender<Request>,
    /// Why the connection has ended.
    end: Arc<OnceLock<String>>,
}

impl Client {
    /// A client, and the task that it needs.
    pub fn new(wire: Wire) -> (Self, impl Future<Output = ()> + Send) {
        let (requests, received) = unbounded_channel();
        let end = Arc::new(OnceLock::new());
        let task = drive(wire, received, Arc::clone(&end));
        (Self { requests, end }, task)
    }

    pub fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    pub async fn run(&self, command: Command) -> Result<Answer, Failure> {
        let (sender, answer) = oneshot::channel();
        if self.requests.send((command, sender)).is_err() {
            return Err(self.ended(false));
        }
        // If the task was ended, nobody knows how far it was.
        answer.await.unwrap_or_else(|_| Err(self.ended(true)))
    }

    /// Gives a command that has no answer.
    pub fn tell(&self, command: Command) {
        // It may have ended.
        drop(self.requests.send((command, oneshot::channel().0)));
    }

    fn ended(&self, sent: bool) -> Failure {
        let why = self.end.get().cloned();
        Failure::Ended {
            why: why.unwrap_or_else(|| "the connection was given up".into()),
            sent,
        }
    }
}

async fn drive(mut wire: Wire, mut requests: UnboundedReceiver<Request>, end: Arc<OnceLock<String>>) {
    let why = loop {
        let (command, answer) = tokio::select! {
            biased;
            news = wire.news() => break match news {
                Ok(()) => unasked(&mut wire),
                Err(error) => error.to_string(),
            },
            request = requests.recv() => match request {
                Some(request) => request,
                None => return wire.quit().await,
            },
        };
        let result = command.run(&mut wire).await;
        let result = result.map_err(|error| Failure::of(error, wire.has_sent()));
        let ended = match &result {
            Ok(Answer { has_more: false, .. }) | Err(Failure::Server(_)) => None,
            Ok(_) => Some("the rest of an answer was not read".into()),
            Err(Failure::Ended { why, .. }) => Some(why.clone()),
            Err(Failure::TooLong) => Some("an answer was too long".into()),
        };
        if let Some(why) = ended {
            // Before anybody learns of it.
            requests.close();
            let _ = end.set(why.clone());
            drop(answer.send(result));
            break why;
        }
        // The caller may be gone.
        drop(answer.send(result));
    };
    drop(wire);
    requests.close();
    let _ = end.set(why.clone());
    // These were not sent.
    while let Some((_, answer)) = requests.recv().await {
        let why = why.clone();
        drop(answer.send(Err(Failure::Ended { why, sent: false })));
    }
}

/// Why a server sends something unasked.
fn unasked(wire: &mut Wire) -> String {
    let error = wire.unasked().and_then(|packet| ServerError::of(&packet));
    error.map_or_else(
        || "the server sent something that it was not asked for".into(),
        |error| error.words(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::Builder;

    /// Whether a statement was sent, for each of several at once, as `server` treats
    /// the first.
    fn sent(close_first: bool) -> Vec<bool> {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = duplex(1000);
            let (client, task) = Client::new(Wire::new(ours));
            let server = async {
                if !close_first {
                    theirs.read_u8().await.unwrap();
                }
                theirs.shutdown().await.unwrap();
            };
            if close_first {
                server.await;
                task.now_or_never().unwrap();
                assert!(!client.is_open());
                let failed = client.run(Command::query("one")).await;
                return vec![matches!(failed, Err(Failure::Ended { sent: true, .. }))];
            }
            let ask = async |text| {
                let failed = client.run(Command::query(text)).await;
                matches!(failed, Err(Failure::Ended { sent: true, .. }))
            };
            let (first, second, ..) = futures::join!(ask("one"), ask("two"), task, server);
            vec![first, second]
        })
    }

    #[test]
    fn a_client_knows_which_statements_were_sent() {
        assert_eq!(sent(true), [false]);
        assert_eq!(sent(false), [true, false]);
    }
}
