//! A program with one database, one worker and a notebook.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestratum_core::Builder;
use orchestratum_mediator::prelude::*;
use orchestratum_mediator::{MediatorSetup, Orchestrator};
use tempfile::TempDir;

/// What handlers and behaviors write down; a service of every app here.
#[derive(Debug, Default)]
pub(crate) struct Notebook(Mutex<Vec<String>>);

impl Notebook {
    pub(crate) fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A service behind a trait.
pub(crate) trait Greeter: Send + Sync {
    fn greet(&self, name: &str) -> String;
}

pub(crate) struct Polite;

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        format!("good morning, {name}")
    }
}

pub(crate) struct App {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) mediator: Mediator,
    pub(crate) notebook: Arc<Notebook>,
    _worker: Worker,
    _folder: TempDir,
}

/// A builder on a fresh database, with the services that the handlers of this binary want, and a quick worker.
pub(crate) fn builder(folder: &TempDir, notebook: &Arc<Notebook>) -> Builder {
    without_services(folder).shared(Arc::clone(notebook)).shared::<dyn Greeter>(Arc::new(Polite))
}

pub(crate) fn without_services(folder: &TempDir) -> Builder {
    crate::log::keep();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("app.db").display());
    Orchestrator::builder().database(url).migrate().polling_interval(Duration::from_millis(100))
}

pub(crate) async fn start(setup: impl FnOnce(MediatorSetup) -> MediatorSetup) -> App {
    start_with(|builder| builder.mediator_with(setup)).await
}

pub(crate) async fn start_with(configure: impl FnOnce(Builder) -> Builder) -> App {
    let (folder, notebook) = (tempfile::tempdir().unwrap(), Arc::new(Notebook::default()));
    let orchestrator = configure(builder(&folder, &notebook)).build().await.unwrap();
    let (mediator, worker) = (orchestrator.mediator(), orchestrator.start());
    App { orchestrator, mediator, notebook, _worker: worker, _folder: folder }
}
