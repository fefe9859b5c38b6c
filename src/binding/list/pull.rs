//! The task that pulls pages, on a store's reader thread, and the channel it
//! sends them through. The task ends when the receiver is dropped.

use crate::binding::guard::guard;
use crate::binding::lane::Mailbox;
use crate::binding::text::Text;
use crate::kv::{Error, Page, Pages, Store, Task};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel};

/// How many pages are read ahead, once the consumer has asked for a second page.
/// Before that it is one, because many lists are left after their first entries.
const AHEAD: usize = 3;

pub enum Message {
    /// A page without its text, and the text.
    Page {
        page: Page,
        text: Text,
    },
    Failed(Error),
}

impl Message {
    pub fn is_last(&self) -> bool {
        match self {
            Self::Page { page, .. } => page.is_last(),
            Self::Failed(_) => true,
        }
    }
}

impl From<Result<Page, Error>> for Message {
    fn from(page: Result<Page, Error>) -> Self {
        let text = |mut page: Page| (Text::from(page.take_json()), page);
        match page.map(|page| guard(|| text(page))) {
            Ok(Some((text, page))) => Self::Page { page, text },
            Ok(None) => Self::Failed(Error::Backend("internal error in a list".into())),
            Err(error) => Self::Failed(error),
        }
    }
}

/// The receiving end.
pub struct ReadAhead {
    messages: UnboundedReceiver<Message>,
    /// One permit for each page that the task may read now.
    permits: Arc<Semaphore>,
    /// Whether the task must post a notice when it has sent a page.
    wanted: Arc<AtomicBool>,
    /// Whether the consumer has received a page.
    begun: bool,
    /// How many pages may be ahead of the consumer.
    ahead: usize,
    /// The reader thread lives as long as the store.
    _store: Arc<dyn Store>,
}

impl ReadAhead {
    /// The caller must spawn the task. `begun` says that the consumer already has
    /// the first page.
    pub fn new(pages: Box<dyn Pages>, store: Arc<dyn Store>, notice: Notice, begun: bool) -> (Self, Task) {
        let (sender, messages) = unbounded_channel();
        let permits = Arc::new(Semaphore::new(1));
        let ahead = Self {
            messages,
            permits: Arc::clone(&permits),
            wanted: Arc::clone(&notice.wanted),
            begun,
            ahead: 1,
            _store: store,
        };
        (ahead, Box::pin(pull(pages, permits, sender, notice)))
    }

    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// The next message. If there is none yet, the task posts a notice when it has
    /// sent one.
    pub fn next(&mut self) -> Option<Message> {
        if self.begun && self.ahead < AHEAD {
            self.permits.add_permits(AHEAD - self.ahead);
            self.ahead = AHEAD;
        }
        self.wanted.store(true, Ordering::SeqCst);
        let message = match self.messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                return Some(Message::Failed(Error::Backend("the list's worker has ended".into())));
            }
        };
        self.wanted.store(false, Ordering::SeqCst);
        self.begun = true;
        self.permits.add_permits(1);
        Some(message)
    }
}

/// Notifies the JavaScript thread that a page was sent, or that the task has
/// ended.
pub struct Notice {
    wanted: Arc<AtomicBool>,
    mailbox: Arc<Mailbox>,
    list: usize,
}

impl Notice {
    pub fn new(mailbox: Arc<Mailbox>, list: usize) -> Self {
        Self {
            wanted: Arc::default(),
            mailbox,
            list,
        }
    }

    fn give(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.mailbox.post_page(self.list);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.give();
    }
}

/// Pulls pages until the last one, an error, or the end of the receiver.
async fn pull(mut pages: Box<dyn Pages>, permits: Arc<Semaphore>, sender: UnboundedSender<Message>, notice: Notice) {
    // Dropped before the notice, so that the receiver finds the channel closed.
    let sender = sender;
    loop {
        let page = tokio::select! {
            biased;
            () = sender.closed() => return,
            page = next_page(&mut pages, &permits) => page,
        };
        let message = Message::from(page);
        let last = message.is_last();
        if sender.send(message).is_err() {
            return;
        }
        notice.give();
        if last {
            return;
        }
        // A page may come without waiting. Other lists must get their turn.
        tokio::task::yield_now().await;
    }
}

async fn next_page(pages: &mut Box<dyn Pages>, permits: &Semaphore) -> Result<Page, Error> {
    // The semaphore is never closed.
    if let Ok(permit) = permits.acquire().await {
        permit.forget();
    }
    pages.next_page().await
}
