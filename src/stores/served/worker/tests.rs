use super::*;
use crate::kv::{Error, JsonText, Key, KeyBuilder, Outbox, Ticket, Write};
use crate::stores::served::Load;
use crate::stores::served::attempt::Limits;
use crate::stores::served::engine::{Cleared, Cursor, Rows};
use crate::stores::served::group::Group;
use futures::FutureExt;
use futures::future::pending;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers by the first part of the key.
#[derive(Default)]
struct Script {
    clears: Notify,
    closed: AtomicBool,
    groups: Mutex<Vec<usize>>,
    connections: usize,
}

impl Engine for Script {
    const NAME: &'static str = "script";

    type Walk = ();

    fn place(&self) -> &'static str {
        "here"
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn query_timeout(&self) -> Duration {
        TIMEOUT
    }

    fn is_relaxed(&self, key: &Key) -> bool {
        key.as_json().starts_with(r#"["relaxed"#)
    }

    fn run<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>> {
        self.groups.lock().push(group.operations.len());
        let is = |name: &str| {
            group
                .operations
                .iter()
                .any(|operation| operation.key.as_json().contains(name))
        };
        assert!(!is("panic"), "as the test wants");
        if is("silent") {
            group.send();
            return Box::pin(pending());
        }
        let outcome = |operation: &Arc<Operation>| match &operation.action {
            Action::Get => Ok(Ok(Reply::Value(operation.key.clone(), None))),
            Action::Put(_) => Ok(Ok(Reply::Done)),
            Action::Cas(..) => Ok(Ok(Reply::Swapped(true))),
        };
        let relaxed = group
            .operations
            .iter()
            .filter(|operation| self.is_relaxed(&operation.key))
            .count();
        assert!(relaxed == 0 || relaxed == group.operations.len() || group.operations[0].is_get());
        let outcomes = group.operations.iter().map(outcome).collect();
        Box::pin(async move { outcomes })
    }

    fn read<'a>(
        &'a self,
        (): &'a (),
        _: &'a Prefix,
        _: Option<&'a Cursor>,
        _: u32,
        _: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>> {
        Box::pin(async { Ok(Rows::default()) })
    }

    /// Three slices, each when the test lets it go on.
    fn clear<'a>(
        &'a self,
        (): &'a (),
        _: &'a Prefix,
        after: Option<&'a Cursor>,
        _: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>> {
        Box::pin(async move {
            if tokio::time::timeout_at(limits.deadline, self.clears.notified())
                .await
                .is_err()
            {
                return Err(Lost::Undone(Error::Timeout("locked".into())));
            }
            let slices = after.map_or(1, |after| after.len() + 1);
            Ok(Cleared {
                live: 1,
                next: (slices < 3).then(|| vec![0; slices]),
            })
        })
    }

    fn create(&self, _: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async { panic!("as the test wants") })
    }

    fn drop_table(&self, _: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async { Ok(()) })
    }

    fn sweep<'a>(&'a self, _: Option<&'a Cursor>, _: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async { Ok(Swept::default()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Relaxed);
        Box::pin(async {})
    }
}

struct Call(Mutex<Option<oneshot::Sender<Outcome>>>);

impl Outbox for Call {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
        for (_, outcome) in outcomes {
            let _ = self.0.lock().take().map(|sender| sender.send(outcome));
        }
    }
}

struct Test {
    engine: Arc<Script>,
    messages: UnboundedSender<Message>,
    worker: JoinHandle<Option<Answer>>,
    load: Arc<Load>,
}

fn key(parts: &[&str]) -> Key {
    let mut builder = KeyBuilder::default();
    for part in parts {
        builder.push(part);
    }
    builder.key().unwrap()
}

fn get(part: &str) -> Command {
    Command::Get(key(&[part]))
}

fn set(part: &str) -> Command {
    let value = JsonText::new("1".into());
    Command::Put(key(&[part]), Write::Store { value, ttl: None })
}

impl Test {
    fn new() -> Self {
        Self::with_connections(4)
    }

    fn with_connections(connections: usize) -> Self {
        let engine = Arc::new(Script {
            connections,
            ..Script::default()
        });
        let (messages, receiver) = unbounded_channel();
        let worker = Worker::new(Arc::clone(&engine), receiver, Bulk::Here).run();
        Self {
            engine,
            messages,
            worker: tokio::spawn(worker),
            load: Arc::new(Load::new(1000)),
        }
    }

    fn call(&self, command: Command) -> oneshot::Receiver<Outcome> {
        let (sender, outcome) = oneshot::channel();
        let answer = Answer::new(0, Arc::new(Call(Mutex::new(Some(sender)))), &command);
        let admission = self.load.admit(&command).unwrap();
        assert!(
            self.messages
                .send(Message::Job(Job { command, answer }, admission))
                .is_ok()
        );
        outcome
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_its_group_alone() {
    let test = Test::new();
    let error = test.call(set("panic")).await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "internal error: as the test wants; the outcome is unknown"
    );
    let error = test.call(Command::Initialize).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
    assert_eq!(test.call(set("k")).await.unwrap(), Ok(Reply::Done));
    let close = test.call(Command::Close);
    assert!(test.worker.await.unwrap().is_some() && test.engine.closed.load(Ordering::Relaxed));
    // It is answered once all is released.
    assert_eq!(close.await.unwrap(), Ok(Reply::Done));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_one_deadline() {
    let test = Test::new();
    let begin = Instant::now();
    let calls: Vec<_> = (0..20).map(|_| test.call(set("silent"))).collect();
    let close = test.call(Command::Close);
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(Error::Timeout(_))));
    }
    drop(test.worker.await.unwrap());
    assert_eq!(close.await.unwrap(), Ok(Reply::Done));
    assert_eq!(begin.elapsed(), TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn clears_go_on_beside_others() {
    let test = Test::new();
    let clear = test.call(Command::Clear(Prefix::from(key(&["a"]))));
    let mut held = test.call(set("a"));
    assert!(test.call(get("b")).await.unwrap().is_ok());
    let other = test.call(Command::Clear(Prefix::from(key(&["b"]))));
    assert!(test.call(set("c")).await.unwrap().is_ok());
    for slices in 0..6 {
        assert!(slices > 4 || (&mut held).now_or_never().is_none());
        test.engine.clears.notify_one();
        tokio::time::sleep(TIMEOUT / 2).await;
    }
    assert_eq!(clear.await.unwrap(), Ok(Reply::Count(3)));
    assert_eq!(other.await.unwrap(), Ok(Reply::Count(3)));
    assert_eq!(held.await.unwrap(), Ok(Reply::Done));
}

#[tokio::test(start_paused = true)]
async fn a_clear_that_does_not_get_further_ends() {
    let test = Test::new();
    let begin = Instant::now();
    let error = test
        .call(Command::Clear(Prefix::from(key(&["a"]))))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.to_string(), "timed out: locked");
    assert_eq!(begin.elapsed(), TIMEOUT);
    let clear = test.call(Command::Clear(Prefix::from(key(&["a"]))));
    test.engine.clears.notify_one();
    let error = clear.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "timed out: locked; the outcome is unknown");
}

#[tokio::test(start_paused = true)]
async fn groups_mix_neither_kinds_of_writes_nor_gets() {
    let test = Test::new();
    let commands = ["a", "relaxed1", "b", "relaxed2"].map(set);
    let gets = ["c", "relaxed3"].map(get);
    let calls: Vec<_> = commands
        .into_iter()
        .chain(gets)
        .map(|command| test.call(command))
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(*test.engine.groups.lock(), [2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_get_waits_for_no_other_while_there_is_a_connection() {
    for connections in 2..5 {
        let test = Test::with_connections(connections);
        let slow = test.call(get("silent"));
        while test.engine.groups.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let begin = Instant::now();
        assert!(test.call(get("a")).await.unwrap().is_ok());
        assert!(begin.elapsed() <= 2 * LINGER, "{connections}");
        drop(slow);
    }
}
