//! Access to the database: one exchange of metadata at a time for all requests,
//! renewed before it ends, with pauses between exchanges that grow.

use super::super::target::Server;
use super::http::{Answer, Failure, Http};
use super::metadata::{Metadata, REQUEST, authorization, check_token, redirected};
use crate::kv::Error;
use crate::stores::served::{Lost, Password, pause};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use url::Url;

/// The pause after an answer before metadata is asked for again. It doubles each time
/// that metadata was of no use: a server that refuses the token, or a wrong clock,
/// must not make requests without end.
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long before its end metadata is renewed: a quarter of its time, at most this.
const BEFORE_END: Duration = Duration::from_secs(60);

const MOST_REDIRECTS: usize = 5;

pub struct Access {
    server: Server,
    timeout: Duration,
    http: Mutex<Option<Http>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    exchange: Option<Exchange>,
    /// No exchange begins before this.
    next: Option<Instant>,
    /// How many exchanges in a row have given nothing that lasts, or no answer.
    useless: u32,
    unanswered: u32,
    /// Why the last exchange failed.
    trouble: Option<Lost>,
    /// Whether the server has ever given metadata.
    reached: bool,
}

/// Metadata, when to renew it, and when it can't be used any more.
struct Known {
    metadata: Arc<Metadata>,
    renew: Instant,
    end: Instant,
    /// The server has refused its token.
    refused: bool,
}

type Exchange = Shared<BoxFuture<'static, Result<Arc<Metadata>, Lost>>>;

/// Why an exchange has failed.
struct Trouble {
    lost: Lost,
    answered: bool,
    pause: Duration,
}

impl Access {
    pub fn new(server: Server, timeout: Duration) -> Self {
        Self {
            server,
            timeout,
            http: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Where the server is, for messages.
    pub fn place(&self) -> &str {
        &self.server.place
    }

    pub fn http(&self) -> Result<Http, Lost> {
        let mut current = self.http.lock();
        if let Some(http) = &*current {
            return Ok(http.clone());
        }
        let http = Http::new(self.first_part()).map_err(|error| Lost::Refused { error, lasting: true })?;
        Ok(current.insert(http).clone())
    }

    /// One of the connections was silent until the timeout. A firewall that has
    /// forgotten it has also forgotten the idle ones, so new ones are opened.
    pub fn leave(&self, http: &Http) {
        self.http.lock().take_if(|current| current.is(http));
    }

    /// For a connection or an access token: so that an address that never answers, or
    /// a function that never returns, is found out in time.
    fn first_part(&self) -> Duration {
        self.timeout * 3 / 4
    }

    pub fn token(&self) -> Password {
        self.server.token.clone()
    }

    /// The metadata to use now. Must be called within the runtime.
    pub async fn metadata(self: &Arc<Self>, until: Instant) -> Result<Arc<Metadata>, Lost> {
        let exchange = {
            let mut state = self.state.lock();
            let now = Instant::now();
            // It is there still if its thread has ended.
            state.exchange.take_if(|exchange| exchange.peek().is_some());
            let fresh = state.known.as_ref().is_some_and(|known| now < known.renew);
            let may = state.next.is_none_or(|next| next <= now);
            if !fresh && may && state.exchange.is_none() {
                state.exchange = Some(self.start());
            }
            if let Some(known) = state.known.as_ref().filter(|known| now < known.end) {
                return Ok(Arc::clone(&known.metadata));
            }
            let Some(exchange) = state.exchange.clone() else {
                let unknown = || temporary(Error::Connection(format!("{}: no token", self.place())));
                return Err(state.trouble.clone().unwrap_or_else(unknown));
            };
            exchange
        };
        let late = || temporary(Failure::Late.error(self.place(), self.timeout));
        timeout_at(until, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    fn start(self: &Arc<Self>) -> Exchange {
        let this = Arc::clone(self);
        // A task, so that it goes on if the request that needs it is given up.
        let task = tokio::spawn(async move {
            let result = this.exchange().await;
            this.finish(result)
        });
        let ended = || temporary(Error::Connection("internal error in an exchange of metadata".into()));
        let exchange = async move { task.await.unwrap_or_else(|_| Err(ended())) };
        exchange.boxed().shared()
    }

    fn finish(&self, result: Result<Metadata, Trouble>) -> Result<Arc<Metadata>, Lost> {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.exchange = None;
        match result {
            Ok(metadata) => Ok(state.learn(Arc::new(metadata), now)),
            Err(trouble) => {
                let lost = trouble.lost.clone();
                state.fail(trouble, now);
                Err(lost)
            }
        }
    }

    /// The server has refused the token of metadata. Returns whether a new one may
    /// help: not if that one was new itself.
    pub fn refuse(&self, metadata: &Arc<Metadata>) -> bool {
        self.state.lock().refuse(metadata, Instant::now())
    }

    /// Metadata may be out of date, but can still be used.
    pub fn doubt(&self, metadata: &Arc<Metadata>) {
        let mut state = self.state.lock();
        if let Some(known) = &mut state.known
            && Arc::ptr_eq(&known.metadata, metadata)
        {
            known.renew = Instant::now();
        }
    }

    async fn exchange(&self) -> Result<Metadata, Trouble> {
        let until = Instant::now() + self.timeout;
        let token = self.access_token().await?;
        let mut url = self.server.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(url.clone(), &token, until).await?;
            let place = self.place();
            if answer.status.is_redirection() {
                url = redirected(&url, &answer.headers).map_err(|why| lasting(format!("{place} {why}")))?;
            } else if answer.status == StatusCode::OK {
                let metadata = Metadata::parse(&url, &answer, token);
                return metadata.map_err(|why| lasting(format!("{place}: the metadata {why}")));
            } else {
                return Err(self.refused(&answer, &token));
            }
        }
        Err(lasting(format!("{} redirects without end", self.place())))
    }

    /// The token for one exchange.
    async fn access_token(&self) -> Result<String, Trouble> {
        let place = self.place();
        let token = self.server.token.get(place, Instant::now() + self.first_part()).await;
        let token = token.map(Option::unwrap_or_default).and_then(|token| {
            let unfit =
                |why| Error::Connection(format!("{place}: the function accessToken returned a token that {why}"));
            check_token(&token).map_err(unfit)?;
            Ok(token)
        });
        token.map_err(|error| {
            unanswered(Lost::Refused {
                error,
                lasting: !self.state.lock().reached,
            })
        })
    }

    /// What follows from an answer without metadata.
    fn refused(&self, answer: &Answer, token: &str) -> Trouble {
        let state = self.state.lock();
        let known = state.known.iter().flat_map(|known| &known.metadata.secrets);
        let secrets: Vec<&str> = known.map(String::as_str).chain([token]).collect();
        let mut trouble = lasting(answer.words(self.place(), &secrets));
        if let Lost::Refused { lasting, .. } = &mut trouble.lost {
            let refuses_token = matches!(answer.status.as_u16(), 401 | 403);
            let next_may_help = refuses_token && self.server.token.may_change() && state.reached;
            *lasting = !answer.is_temporary() && !next_may_help;
        }
        trouble.pause = answer.retry_after().unwrap_or_default();
        trouble
    }

    async fn ask(&self, url: Url, token: &str, until: Instant) -> Result<Answer, Trouble> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = authorization(token) {
            headers.insert(AUTHORIZATION, token);
        }
        let http = self.http().map_err(unanswered)?;
        let answer = http.post(url, headers, REQUEST.to_vec(), until).await;
        answer.map_err(|failure| {
            let late = matches!(failure, Failure::Late);
            if late {
                self.leave(&http);
            }
            unanswered(Lost::Refused {
                error: failure.error(self.place(), self.timeout),
                lasting: !late && !self.state.lock().reached,
            })
        })
    }
}

fn unanswered(lost: Lost) -> Trouble {
    Trouble {
        lost,
        answered: false,
        pause: Duration::ZERO,
    }
}

fn temporary(error: Error) -> Lost {
    Lost::Refused { error, lasting: false }
}

/// The server has answered, and would answer the same again.
fn lasting(why: String) -> Trouble {
    Trouble {
        lost: Lost::Refused {
            error: Error::Connection(why),
            lasting: true,
        },
        answered: true,
        pause: Duration::ZERO,
    }
}

impl State {
    fn learn(&mut self, metadata: Arc<Metadata>, now: Instant) -> Arc<Metadata> {
        let lifetime = metadata.lifetime.unwrap_or_default();
        let replaces_refused = self.known.as_ref().is_some_and(|known| known.refused);
        self.unanswered = 0;
        self.reached = true;
        self.trouble = None;
        if lifetime > 2 * PAUSE && !replaces_refused {
            self.useless = 0;
        }
        let pause = self.pause_of_answer();
        self.next = Some(now + pause);
        // By our clock or the server's, it may have expired. Then it is used until
        // the next exchange, because there is nothing better.
        let lifetime = lifetime.max(pause);
        let renew = lifetime.saturating_sub((lifetime / 4).min(BEFORE_END));
        self.known = Some(Known {
            metadata: Arc::clone(&metadata),
            renew: now + renew.max(pause),
            end: now + lifetime,
            refused: false,
        });
        metadata
    }

    fn fail(&mut self, trouble: Trouble, now: Instant) {
        let least = if trouble.answered {
            self.unanswered = 0;
            self.pause_of_answer()
        } else if let Lost::Refused { lasting: true, .. } = trouble.lost {
            // The next operation tries again, so that it finds a server that has
            // just been started.
            Duration::ZERO
        } else {
            self.unanswered += 1;
            pause(self.unanswered)
        };
        self.next = Some(now + trouble.pause.max(least));
        self.trouble = Some(trouble.lost);
    }

    fn pause_of_answer(&mut self) -> Duration {
        let pause = PAUSE.saturating_mul(1 << self.useless.min(16)).min(LONGEST_PAUSE);
        self.useless += 1;
        pause
    }

    fn refuse(&mut self, metadata: &Arc<Metadata>, now: Instant) -> bool {
        let Some(known) = &mut self.known else { return true };
        if !Arc::ptr_eq(&known.metadata, metadata) {
            return true;
        }
        if self.next.is_some_and(|next| next > now) {
            return false;
        }
        known.renew = now;
        known.end = now;
        known.refused = true;
        true
    }
}

#[cfg(test)]
mod tests;
