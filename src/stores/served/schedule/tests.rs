use super::*;
use crate::kv::{Command, JsonText, KeyBuilder, Outbox, Reply, Ticket, Write};
use crate::stores::served::operation::Action;
use crate::stores::served::{Admission, Load};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::time::advance;

const TIMEOUT: Duration = Duration::from_secs(5);
const ALMOST: Duration = Duration::from_millis(4_999);

#[derive(Default)]
struct Inbox;

impl Outbox for Inbox {
    fn deliver(&self, _: Vec<(Ticket, Outcome)>) {}
}

/// A schedule, whose callers are numbered.
struct Test {
    schedule: Schedule<&'static str>,
    load: Arc<Load>,
    calls: usize,
}

fn key(parts: &str) -> Key {
    let mut builder = KeyBuilder::default();
    parts.split('/').for_each(|part| builder.push(part));
    builder.key().unwrap()
}

fn put() -> Action {
    Action::Put(Write::Store {
        value: JsonText::new("1".into()),
        ttl: None,
    })
}

fn cas() -> Action {
    Action::Cas(None, Write::Delete)
}

fn value(name: &str) -> Reply {
    Reply::Value(key(name), None)
}

impl Test {
    fn new() -> Self {
        Self {
            schedule: Schedule::new(TIMEOUT, "here".into()),
            load: Arc::new(Load::new(usize::MAX)),
            calls: 0,
        }
    }

    fn call(&mut self) -> (Answer, Admission) {
        self.calls += 1;
        let admission = self.load.admit(&Command::Initialize).unwrap();
        (
            Answer::new(self.calls, Arc::new(Inbox), &Command::Initialize),
            admission,
        )
    }

    fn add(&mut self, name: &str, action: Action) -> usize {
        let (answer, admission) = self.call();
        self.schedule.add(Operation::new(key(name), action), answer, admission);
        self.calls
    }

    fn broad(&mut self, scope: Scope) -> usize {
        let (answer, admission) = self.call();
        self.schedule.add_broad(scope, "broad", answer, admission);
        self.calls
    }

    fn list(&mut self, scope: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.schedule.add_list(Prefix::from(key(scope)), sender);
        receiver
    }

    fn clear(&mut self, prefix: &str) -> usize {
        self.broad(Scope::Prefix(Prefix::from(key(prefix))))
    }

    /// The operations that are ready, by their keys.
    fn ready(&mut self) -> Vec<(Id, String)> {
        let ids: Vec<Id> = self.schedule.take_ready().collect();
        let name = |id: Id| Some((id, self.schedule.ready_one(id)?.0.key.to_string()));
        ids.into_iter().filter_map(name).collect()
    }

    /// Starts what is ready.
    fn start(&mut self) -> Vec<Id> {
        let ids: Vec<Id> = self.ready().into_iter().map(|(id, _)| id).collect();
        for id in &ids {
            self.schedule.start(&[*id]);
        }
        ids
    }

    /// The calls that are answered, and how.
    fn answered(&mut self) -> Vec<(usize, Outcome)> {
        let answered = self.schedule.take_answered();
        answered
            .map(|(answer, outcome)| (answer.ticket().unwrap(), outcome))
            .collect()
    }

    fn answered_calls(&mut self) -> Vec<usize> {
        self.answered().into_iter().map(|(call, _)| call).collect()
    }

    fn errors(&mut self) -> Vec<(usize, String)> {
        let answered = self.answered();
        answered
            .into_iter()
            .map(|(call, outcome)| (call, outcome.unwrap_err().to_string()))
            .collect()
    }

    async fn pass(&mut self, time: Duration) {
        advance(time).await;
        self.schedule.on_time(Instant::now());
    }
}

fn lost() -> Lost {
    Lost::Unknown(Error::Connection("cut".into()))
}

#[tokio::test(start_paused = true)]
async fn operations_on_one_key_run_in_order_and_gets_are_joined() {
    let mut test = Test::new();
    for action in [put(), Action::Get, Action::Get, cas(), Action::Get] {
        test.add("a", action);
    }
    test.add("b", Action::Get);
    let started = test.start();
    assert_eq!(started.len(), 2);
    test.schedule.end(started[0], Ok(Ok(Reply::Done)));
    let gets = test.start();
    assert_eq!((gets.len(), test.answered_calls()), (1, vec![1]));
    test.schedule.end(gets[0], Ok(Ok(value("a"))));
    assert_eq!(test.answered_calls(), [2, 3]);
    let swap = test.start();
    test.schedule.end(swap[0], Ok(Ok(Reply::Swapped(true))));
    let last = test.start();
    test.schedule.end(last[0], Ok(Ok(value("a"))));
    test.schedule.end(started[1], Ok(Ok(value("b"))));
    assert_eq!(test.answered_calls(), [4, 5, 6]);
    assert!(test.schedule.is_answered() && test.schedule.ops.is_empty() && test.schedule.keys.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broad_operation_holds_back_only_what_it_concerns() {
    let mut test = Test::new();
    test.add("a/x", put());
    let earlier = test.start();
    test.clear("a");
    test.clear("b");
    test.add("a/y", put());
    test.add("c", put());
    // The first clear waits for the set before it, the second for nothing.
    let (b, ..) = test.schedule.start_broad().unwrap();
    assert!(test.schedule.start_broad().is_none());
    assert_eq!(
        test.ready().into_iter().map(|(_, key)| key).collect::<Vec<_>>(),
        [r#"["c"]"#]
    );
    test.schedule.end(earlier[0], Ok(Ok(Reply::Done)));
    let (a, ..) = test.schedule.start_broad().unwrap();
    test.schedule.end_broad(b, &Ok(Reply::Count(0)));
    assert!(test.ready().is_empty());
    test.schedule.end_broad(a, &Ok(Reply::Count(1)));
    assert_eq!(
        test.ready().into_iter().map(|(_, key)| key).collect::<Vec<_>>(),
        [r#"["a","y"]"#]
    );
}

#[tokio::test(start_paused = true)]
async fn overlapping_broad_operations_run_in_order() {
    let mut test = Test::new();
    test.broad(Scope::Table);
    test.clear("a");
    test.clear("a/b");
    test.broad(Scope::All);
    let (table, ..) = test.schedule.start_broad().unwrap();
    let (outer, ..) = test.schedule.start_broad().unwrap();
    assert!(test.schedule.start_broad().is_none());
    test.schedule.end_broad(outer, &Ok(Reply::Count(0)));
    let (inner, ..) = test.schedule.start_broad().unwrap();
    test.schedule.end_broad(inner, &Ok(Reply::Count(0)));
    assert!(test.schedule.start_broad().is_none());
    test.schedule.end_broad(table, &Ok(Reply::Done));
    assert!(test.schedule.start_broad().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_joined_get_blocks_nothing() {
    let mut test = Test::new();
    test.add("a", put());
    let first = test.start();
    test.add("a", Action::Get);
    test.clear("a");
    for _ in 0..3 {
        test.add("a", Action::Get);
    }
    test.clear("a");
    test.schedule.end(first[0], Ok(Ok(Reply::Done)));
    let get = test.start();
    test.schedule.end(get[0], Ok(Ok(value("a"))));
    let (clear, ..) = test.schedule.start_broad().unwrap();
    test.schedule.end_broad(clear, &Ok(Reply::Count(1)));
    for calls in [1, 2] {
        let gets = test.start();
        test.answered();
        test.schedule.end(gets[0], Ok(Ok(value("a"))));
        assert_eq!(test.answered().len(), calls);
    }
    assert!(test.schedule.start_broad().is_some());
}

#[tokio::test(start_paused = true)]
async fn each_caller_is_rejected_at_its_own_deadline() {
    let mut test = Test::new();
    test.add("a", put());
    test.add("a", cas());
    let first = test.start();
    advance(TIMEOUT / 2).await;
    test.add("a", Action::Get);
    test.add("a", Action::Get);
    test.add("b", put());
    assert_eq!(test.schedule.due(), Some(Instant::now() + TIMEOUT / 2));
    test.pass(TIMEOUT / 2).await;
    // The first may have been sent, but was not; the second only waited.
    let late = "timed out: here: no answer within 5000 ms";
    assert_eq!(test.errors(), [(1, late.into()), (2, late.into())]);
    // The first is still under way, so that the gets wait. It is not to be sent any
    // more.
    assert!(test.schedule.op(first[0]).unwrap().operation.is_withdrawn());
    assert_eq!(test.ready().len(), 1);
    test.pass(TIMEOUT / 2).await;
    assert_eq!(test.errors(), [(3, late.into()), (4, late.into()), (5, late.into())]);
    assert!(test.schedule.is_answered());
    test.schedule.end(first[0], Err(lost()));
    assert!(test.schedule.ops.is_empty() && test.schedule.keys.is_empty() && test.answered().is_empty());
}

#[tokio::test(start_paused = true)]
async fn whatever_may_have_been_carried_out_says_so() {
    let mut test = Test::new();
    for (name, action) in [("get", Action::Get), ("put", put()), ("cas", cas())] {
        test.add(name, action);
    }
    test.schedule.add(
        Operation::new(key("sent"), put()),
        Answer::new(9, Arc::new(Inbox), &Command::Initialize),
        test.load.admit(&Command::Initialize).unwrap(),
    );
    let started = test.start();
    // The last one is sent, and never answered.
    test.schedule.op(started[3]).unwrap().group.as_ref().unwrap().send();
    for id in &started[..3] {
        test.schedule.end(*id, Err(lost()));
    }
    let unknown = "no connection: cut; the outcome is unknown";
    assert_eq!(test.errors(), [(2, unknown.into()), (3, unknown.into())]);
    // The get is repeated, and not reached again.
    let again = test.start();
    let error = Error::Connection("refused".into());
    test.schedule
        .end(again[0], Err(Lost::Refused { error, lasting: false }));
    test.pass(TIMEOUT).await;
    let late = "timed out: here: no answer within 5000 ms; the outcome is unknown";
    assert_eq!(test.errors(), [(1, "no connection: refused".into()), (9, late.into())]);
}

#[tokio::test(start_paused = true)]
async fn a_reason_tells_more_than_that_time_ran_out() {
    let mut test = Test::new();
    for name in ["a", "b"] {
        test.add(name, put());
    }
    let started = test.start();
    let why = Lost::Undone(Error::Backend("read-only".into()));
    for id in &started {
        test.schedule.end(*id, Err(why.clone()));
    }
    test.start();
    // One does not get a connection any more, the other no answer.
    let error = Error::Timeout("no connection became free".into());
    test.schedule.end(started[0], Err(Lost::Undone(error)));
    test.pass(TIMEOUT).await;
    let errors = test.errors();
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|(_, words)| words == "read-only"), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn repetition_pauses_and_ends_with_success() {
    let mut test = Test::new();
    test.add("a", cas());
    let id = test.start()[0];
    test.schedule
        .end(id, Err(Lost::Undone(Error::Backend("deadlock".into()))));
    // At once the first time.
    assert_eq!(test.start(), [id]);
    test.schedule
        .end(id, Err(Lost::Undone(Error::Backend("deadlock".into()))));
    assert!(test.start().is_empty());
    let due = test.schedule.due().unwrap();
    assert!(due > Instant::now() && due <= Instant::now() + Duration::from_millis(20));
    test.pass(Duration::from_millis(20)).await;
    assert_eq!(test.start(), [id]);
    test.schedule.end(id, Ok(Ok(Reply::Swapped(true))));
    assert_eq!(test.answered(), [(1, Ok(Reply::Swapped(true)))]);
}

#[tokio::test(start_paused = true)]
async fn progress_of_a_broad_operation_is_patience_for_others() {
    let mut test = Test::new();
    test.clear("a");
    let (clear, _, progress) = test.schedule.start_broad().unwrap();
    test.add("a/x", put());
    test.clear("a/x");
    for _ in 0..3 {
        test.pass(ALMOST).await;
        progress.make();
    }
    assert!(test.answered().is_empty());
    test.schedule.end_broad(clear, &Ok(Reply::Count(0)));
    // Its own patience begins now.
    test.pass(ALMOST).await;
    assert_eq!(test.answered_calls(), [1]);
    test.pass(TIMEOUT).await;
    test.pass(TIMEOUT).await;
    assert_eq!(test.answered_calls(), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn lists_wait_for_the_earlier_writes_under_their_prefix() {
    let mut test = Test::new();
    test.add("a/x", put());
    test.add("a/y", Action::Get);
    test.add("b", put());
    test.clear("c");
    let (mut a, mut c, mut none) = (test.list("a"), test.list("c/x"), test.list("d"));
    let (sender, mut all) = oneshot::channel();
    test.schedule.add_list(Prefix::ALL, sender);
    test.add("a/z", put());
    assert!(none.try_recv().is_ok());
    assert!(a.try_recv().is_err() && c.try_recv().is_err() && all.try_recv().is_err());
    let started = test.start();
    test.schedule.end(started[0], Ok(Ok(Reply::Done)));
    assert!(a.try_recv().is_ok());
    let (clear, ..) = test.schedule.start_broad().unwrap();
    test.schedule.end_broad(clear, &Ok(Reply::Count(0)));
    assert!(c.try_recv().is_ok() && all.try_recv().is_err());
    // One that is rejected may still be carried out, but not for longer.
    test.pass(TIMEOUT).await;
    assert!(all.try_recv().is_err());
    test.schedule.end(started[2], Err(lost()));
    assert!(all.try_recv().is_ok());
}

/// Random calls, attempts and failures: what runs never gets in each other's way,
/// and each call is answered once.
#[tokio::test(start_paused = true)]
async fn nothing_runs_beside_what_concerns_it() {
    let names = ["a", "a/x", "a/y", "b", "b/x", "c"];
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut test = Test::new();
        let mut running: Vec<(Id, String)> = Vec::new();
        let mut broads: Vec<(Id, Scope)> = Vec::new();
        let mut answers = vec![0; 1000];
        let mut lists = Vec::new();
        let mut started: HashMap<String, u64> = HashMap::new();
        for step in 0..400 {
            let name = *names.choose(&mut random).unwrap();
            match random.gen_range(0..if step < 300 { 13 } else { 6 }) {
                0..=2 => {
                    let ready = test.ready();
                    for (id, key) in ready {
                        assert!(running.iter().all(|(_, other)| *other != key), "seed {seed}");
                        test.schedule.start(&[id]);
                        running.push((id, key));
                    }
                    while let Some((id, ..)) = test.schedule.start_broad() {
                        let scope = test.schedule.broads[&id.number].scope.clone();
                        assert!(broads.iter().all(|(_, other)| !other.overlaps(&scope)), "seed {seed}");
                        broads.push((id, scope));
                    }
                    for (id, key) in &running {
                        let before = started.entry(key.clone()).or_default();
                        assert!(*before <= id.number, "seed {seed}");
                        *before = id.number;
                        let concerned = |(_, scope): &(Id, Scope)| match scope {
                            Scope::Table => false,
                            Scope::Prefix(prefix) => prefix.contains_json(key),
                            Scope::All => true,
                        };
                        assert!(!broads.iter().any(concerned), "seed {seed}");
                    }
                }
                3 | 4 if !running.is_empty() => {
                    let (id, _) = running.swap_remove(random.gen_range(0..running.len()));
                    let result = match random.gen_range(0..3) {
                        0 => Err(lost()),
                        1 => Err(Lost::Undone(Error::Backend("deadlock".into()))),
                        _ => Ok(Ok(Reply::Done)),
                    };
                    test.schedule.end(id, result);
                }
                5 if !broads.is_empty() => {
                    let (id, _) = broads.swap_remove(random.gen_range(0..broads.len()));
                    test.schedule.end_broad(id, &Ok(Reply::Count(0)));
                }
                6 => drop(test.clear(name)),
                7 => drop(test.broad(if random.r#gen() { Scope::Table } else { Scope::All })),
                8 => test.pass(Duration::from_millis(random.gen_range(0..3000))).await,
                9 => drop(test.add(name, Action::Get)),
                10 => drop(test.add(name, put())),
                11 => drop(test.add(name, cas())),
                12 => lists.push(test.list(name)),
                _ => {}
            }
            for call in test.answered_calls() {
                answers[call] += 1;
            }
        }
        // Without further attempts, all that waits is too late in the end.
        for (id, _) in broads {
            test.schedule.end_broad(id, &Ok(Reply::Count(0)));
        }
        for _ in 0..3 {
            test.pass(TIMEOUT).await;
        }
        for call in test.answered_calls() {
            answers[call] += 1;
        }
        assert!(test.schedule.is_answered(), "seed {seed}");
        assert!(answers[1..=test.calls].iter().all(|count| *count == 1), "seed {seed}");
        for (id, _) in running {
            test.schedule.end(id, Ok(Ok(Reply::Done)));
        }
        assert!(
            test.schedule.ops.is_empty() && test.schedule.broads.is_empty(),
            "seed {seed}"
        );
    }
}
