//! What is told when the orchestrator is built.

use std::sync::Arc;

use orchestratum_core::Error;
use orchestratum_mediator::MediatorSetup;
use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

use crate::app::{Greeter, Notebook, builder, start, without_services};
use crate::log;
use crate::send::{GetUser, User};

#[derive(Serialize, Deserialize, Request)]
struct Chore;

/// Not registered by itself.
#[derive(FromServices)]
struct OneWay;

impl Handler<Chore> for OneWay {
    async fn handle(&self, _: Chore, _: Context) -> anyhow::Result<()> {
        Ok(())
    }
}

#[derive(FromServices)]
struct OtherWay {
    greeter: Arc<dyn Greeter>,
}

impl Handler<Chore> for OtherWay {
    async fn handle(&self, _: Chore, _: Context) -> anyhow::Result<()> {
        self.greeter.greet("chore");
        Ok(())
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(name = "chore")]
struct Namesake;

#[derive(FromServices)]
struct NamesakeHandler;

impl Handler<Namesake> for NamesakeHandler {
    async fn handle(&self, _: Namesake, _: Context) -> anyhow::Result<()> {
        Ok(())
    }
}

async fn problem(setup: impl FnOnce(MediatorSetup) -> MediatorSetup) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let builder = builder(&folder, &Arc::new(Notebook::default()));
    builder.mediator_with(|mediator| setup(mediator.without_auto_registration())).build().await.unwrap_err()
}

#[tokio::test]
async fn two_handlers_of_a_request_are_refused_with_both_places() {
    let error = problem(|mediator| mediator.handler::<Chore, OneWay>().handler::<Chore, OtherWay>()).await;
    let text = error.to_string();
    assert!(text.starts_with("invalid `mediator`: request `chore` has two handlers, `"), "{text}");
    assert!(text.contains("OneWay` (") && text.contains("OtherWay` ("), "{text}");
    assert_eq!(text.matches("tests/mediator/start.rs:").count(), 2, "{text}");
}

#[tokio::test]
async fn two_requests_of_one_name_are_refused_with_both_types() {
    let error = problem(|mediator| mediator.handler::<Chore, OneWay>().handler::<Namesake, NamesakeHandler>()).await;
    let text = error.to_string();
    assert!(text.contains("two requests have the name `chore`: "), "{text}");
    assert!(text.contains("start::Chore`") && text.contains("start::Namesake`"), "{text}");
}

#[tokio::test]
async fn a_missing_service_is_refused_with_the_handler_that_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let explicit = |mediator: MediatorSetup| mediator.without_auto_registration().handler::<Chore, OtherWay>();
    let error = without_services(&folder).mediator_with(explicit).build().await.unwrap_err();
    let Error::MissingService { service, wanted_by } = &error else { panic!("{error}") };
    assert!(service.contains("Greeter") && wanted_by.contains("OtherWay` ("), "{error}");

    // The arguments of functions are looked at as well.
    let error = without_services(&folder).shared::<dyn Greeter>(Arc::new(crate::app::Polite)).mediator();
    let error = error.build().await.unwrap_err();
    let Error::MissingService { service, wanted_by } = &error else { panic!("{error}") };
    assert!(service.ends_with("Notebook") && wanted_by.starts_with("handler `"), "{error}");
}

#[tokio::test]
async fn the_mediator_is_given_to_the_builder_once() {
    let folder = tempfile::tempdir().unwrap();
    let builder = builder(&folder, &Arc::new(Notebook::default()));
    let error = builder.mediator().mediator_with(|mediator| mediator).build().await.unwrap_err();
    assert!(error.to_string().contains("it is called twice"), "{error}");
}

#[tokio::test]
async fn explicit_handlers_stand_in_for_linked_ones() {
    let app = start(|mediator| {
        mediator
            .without_auto_registration()
            .handler::<Chore, OneWay>()
            .handler_fn(|request: GetUser, _| async move { Ok(User { id: request.id, name: "nobody".to_owned() }) })
    })
    .await;
    assert_eq!(app.mediator.requests(), ["chore", "get_user"]);
    assert_eq!(app.mediator.send(GetUser { id: 1 }).await.unwrap().name, "nobody");
}

#[tokio::test]
async fn a_program_may_take_a_part_of_what_is_linked() {
    let app = start(MediatorSetup::only::<GetUser>).await;
    assert_eq!(app.mediator.requests(), ["get_user"]);
}

#[tokio::test]
async fn a_start_says_what_is_served_and_which_requests_have_no_handler() {
    let folder = tempfile::tempdir().unwrap();
    let notebook = Arc::new(Notebook::default());
    builder(&folder, &notebook).remote_request::<Namesake>().mediator().build().await.unwrap();
    let text = log::text();
    let line = |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{text}"));
    let served = line("serves requests");
    assert!(served.contains("INFO") && served.contains("get_user, ") && served.contains("mail<invoice>"), "{served}");
    let unhandled = line("no handler is linked");
    assert!(unhandled.contains("WARN") && unhandled.contains("unhandled"), "{unhandled}");
    assert!(!unhandled.contains("get_user"), "{unhandled}");
}
