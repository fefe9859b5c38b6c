//! A store on a server, and how its worker is started.
//!
//! The worker runs on the event loop or on a thread; see [`crate::host`]. On the
//! event loop it gives what takes long to a thread.

use super::Message;
use super::engine::Engine;
use super::pages::ServedPages;
use super::worker::Worker;
use super::{Admission, Load};
use crate::host::thread::{WorkerThread, spawn_with_io};
use crate::host::{Bulk, Host};
use crate::kv::{Answer, Command, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store};
use crate::stores::worker::{FailedPages, Tasks, answer_close};
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Starts a store's worker when it is needed, and hands it messages.
pub struct Starter<M> {
    name: &'static str,
    worker: WorkerThread<M>,
    load: Arc<Load>,
    host: Host,
    bulk: Bulk,
    /// Lets go of functions of the caller's when the store is closed.
    forget: Arc<dyn Fn() + Send + Sync>,
}

impl<M: Send + 'static> Starter<M> {
    pub fn new(
        name: &'static str,
        queue_limit: usize,
        host: Host,
        bulk: Bulk,
        forget: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            name,
            worker: WorkerThread::default(),
            load: Arc::new(Load::new(queue_limit)),
            host,
            bulk,
            forget,
        }
    }

    /// A sender to the worker, which is started where there is none: the first time,
    /// and after one that has panicked.
    ///
    /// # Errors
    ///
    /// [`crate::kv::Error::Connection`] if the thread can't be created;
    /// [`crate::kv::Error::Closed`]
    pub fn sender<F>(&self, run: impl FnOnce(UnboundedReceiver<M>) -> F + Send + 'static) -> Result<UnboundedSender<M>>
    where
        F: Future<Output = Option<Answer>> + Send + 'static,
    {
        self.worker.sender(|messages| self.start(messages, run))
    }

    fn start<F>(
        &self,
        messages: UnboundedReceiver<M>,
        run: impl FnOnce(UnboundedReceiver<M>) -> F + Send + 'static,
    ) -> std::io::Result<()>
    where
        F: Future<Output = Option<Answer>> + Send + 'static,
    {
        let forget = Arc::clone(&self.forget);
        let end = move |close: Option<Answer>| {
            if close.is_some() {
                forget();
            }
            answer_close(close);
        };
        let Host::Loop(event_loop) = &self.host else {
            return spawn_with_io(self.name, move || run(messages), end);
        };
        let bulk = self.bulk.clone();
        event_loop.spawn(async move {
            let close = run(messages).await;
            bulk.end().await;
            end(close);
        });
        Ok(())
    }

    /// Hands a job to the worker. The job is answered in any case.
    pub fn submit<F>(
        &self,
        job: Job,
        run: impl FnOnce(UnboundedReceiver<M>) -> F + Send + 'static,
        message: impl FnOnce(Job, Admission) -> M,
    ) where
        F: Future<Output = Option<Answer>> + Send + 'static,
    {
        let worker = if matches!(job.command, Command::Close) {
            let Some(worker) = self.worker.close_by(|messages| self.start(messages, run)) else {
                (self.forget)();
                return job.answer.deliver(Ok(Reply::Done));
            };
            Ok(worker)
        } else {
            self.sender(run)
        };
        let admitted = worker.and_then(|worker| Ok((worker, self.load.admit(&job.command)?)));
        match admitted {
            Ok((worker, admission)) => {
                // If the worker has just ended, the job is dropped, which answers it.
                drop(worker.send(message(job, admission)));
                if let Host::Loop(event_loop) = &self.host {
                    event_loop.on_call();
                }
            }
            Err(error) => job.answer.deliver(Err(error)),
        }
    }
}

pub struct ServedStore<E> {
    engine: Arc<E>,
    starter: Arc<Starter<Message>>,
}

impl<E> Clone for ServedStore<E> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            starter: Arc::clone(&self.starter),
        }
    }
}

impl<E: Engine> ServedStore<E> {
    pub fn new(engine: E, queue_limit: usize, host: Host, bulk: Bulk) -> Self {
        let engine = Arc::new(engine);
        let functions = Arc::clone(&engine);
        let forget = Arc::new(move || functions.forget());
        Self {
            engine,
            starter: Arc::new(Starter::new(E::NAME, queue_limit, host, bulk, forget)),
        }
    }

    fn run(&self) -> impl FnOnce(UnboundedReceiver<Message>) -> BoxFuture<'static, Option<Answer>> + Send + 'static {
        let (engine, bulk) = (Arc::clone(&self.engine), self.starter.bulk.clone());
        move |messages| Box::pin(Worker::new(engine, messages, bulk).run())
    }

    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.starter.sender(self.run())
    }

    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Makes the index agree with the entries, and delivers how many there are.
    pub fn reindex(&self, answer: Answer) {
        let job = Job {
            command: Command::Initialize,
            answer,
        };
        self.starter.submit(job, self.run(), |job, admission| {
            Message::Reindex(job.answer, admission)
        });
    }
}

impl<E: Engine> Store for ServedStore<E> {
    fn answer(&self, command: Command, _: bool) -> std::result::Result<Outcome, Command> {
        Err(command)
    }

    fn submit(&self, job: Job) {
        self.starter.submit(job, self.run(), Message::Job);
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        match self.worker() {
            Ok(worker) => Box::new(ServedPages::new(Arc::clone(&self.engine), worker, prefix, limits)),
            Err(error) => Box::new(FailedPages(error)),
        }
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(match &self.starter.bulk {
            Bulk::Here => Arc::new(Tasks(self.worker()?)),
            Bulk::On(thread, name) => Arc::new(Tasks(thread.sender(name)?)),
        }))
    }
}
