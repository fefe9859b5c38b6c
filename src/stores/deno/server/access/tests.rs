use super::*;

fn metadata(lifetime: u64) -> Arc<Metadata> {
    Arc::new(Metadata::for_tests(
        Some(Duration::from_secs(lifetime)).filter(|it| !it.is_zero()),
    ))
}

/// How long after an exchange the next one may begin, and how long its metadata is
/// used, in seconds.
fn times(state: &State, now: Instant) -> (u64, u64) {
    let known = state.known.as_ref().unwrap();
    let next = state.next.unwrap() - now;
    assert!(known.renew - now >= next, "it would be wanted before it may come");
    (next.as_secs(), (known.end - now).as_secs())
}

#[test]
fn metadata_is_renewed_before_its_end() {
    let (mut state, now) = (State::default(), Instant::now());
    state.learn(metadata(3_600), now);
    let known = state.known.as_ref().unwrap();
    assert_eq!(known.renew - now, Duration::from_secs(3_540));
    assert_eq!(known.end - now, Duration::from_secs(3_600));
    state.learn(metadata(60), now);
    assert_eq!(state.known.as_ref().unwrap().renew - now, Duration::from_secs(45));
    for _ in 0..10 {
        state.learn(metadata(3_600), now);
        assert_eq!(times(&state, now), (2, 3_600));
    }
}

#[test]
fn pauses_grow_while_metadata_does_not_last() {
    let (mut state, now) = (State::default(), Instant::now());
    for (lifetime, pause, end) in [(0, 2, 2), (1, 4, 4), (0, 8, 8), (3, 16, 16), (0, 30, 30), (0, 30, 30)] {
        state.learn(metadata(lifetime), now);
        assert_eq!(times(&state, now), (pause, end));
    }
    state.learn(metadata(600), now);
    assert_eq!(times(&state, now), (2, 600));
}

#[test]
fn pauses_grow_while_exchanges_fail() {
    let (mut state, now) = (State::default(), Instant::now());
    let refused = || lasting("no".into());
    for pause in [2, 4, 8, 16, 30, 30] {
        state.fail(refused(), now);
        assert_eq!(state.next, Some(now + Duration::from_secs(pause)));
    }
    let mut busy = refused();
    busy.pause = Duration::from_secs(50);
    state.fail(busy, now);
    assert_eq!(state.next, Some(now + Duration::from_secs(50)));
    // Where no one answers, there is no one to spare.
    let unanswered = |lasting| Trouble {
        lost: Lost::Refused {
            error: Error::Connection("no".into()),
            lasting,
        },
        answered: false,
        pause: Duration::ZERO,
    };
    for _ in 0..20 {
        state.fail(unanswered(false), now);
        assert!(state.next.unwrap() <= now + Duration::from_millis(500));
    }
    assert!(state.next.unwrap() > now);
    state.fail(unanswered(true), now);
    assert_eq!(state.next, Some(now));
}

#[test]
fn a_refused_token_is_replaced_unless_it_is_new() {
    let (mut state, mut now) = (State::default(), Instant::now());
    let mut last = None;
    for pause in [2, 4, 8, 16, 30, 30] {
        let current = state.learn(metadata(3_600), now);
        assert!(!state.refuse(&current, now), "it is new");
        assert!(state.known.as_ref().unwrap().end > now, "it is used until then");
        now += Duration::from_secs(pause);
        assert!(state.refuse(&current, now));
        assert_eq!(state.known.as_ref().unwrap().end, now);
        // Those that were sent with an older one are repeated with this one.
        assert!(last.is_none_or(|last| state.refuse(&last, now)));
        last = Some(current);
    }
    state.learn(metadata(3_600), now);
    state.learn(metadata(3_600), now);
    assert_eq!(times(&state, now), (2, 3_600));
}
