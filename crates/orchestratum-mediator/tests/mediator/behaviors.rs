//! Code around handlers.

use std::sync::Arc;

use orchestratum_mediator::Error;
use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

use crate::app::{App, Notebook, start};
use crate::send::GetUser;

#[derive(Debug, Clone, Serialize, Deserialize, Request)]
#[request(response = u32, retries = 0, behaviors(Typed("request's own")))]
struct Double {
    number: u32,
}

#[handler]
async fn double(request: Double, notebook: Service<Notebook>) -> anyhow::Result<u32> {
    notebook.write("handler");
    anyhow::ensure!(request.number != 0, "nothing to double");
    Ok(request.number * 2)
}

/// Writes down when it is entered and left, for every request.
struct Open(&'static str);

impl OpenBehavior for Open {
    async fn handle(&self, request: AnyRequest, ctx: Context, next: OpenNext<'_>) -> anyhow::Result<AnyResponse> {
        let notebook = ctx.service::<Notebook>()?;
        let durable = if ctx.command_id().is_some() { "durable " } else { "" };
        notebook.write(format!("{}> {durable}{} {}", self.0, request.name(), request.to_json()?));
        let response = next.run(request, ctx).await;
        notebook.write(format!("<{}", self.0));
        response
    }
}

/// The same for the requests that it is given for.
struct Typed(&'static str);

impl<R: Request> Behavior<R> for Typed {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        let notebook = ctx.service::<Notebook>()?;
        notebook.write(format!("{}>", self.0));
        let response = next.run(request, ctx).await;
        notebook.write(format!("<{}", self.0));
        response
    }
}

struct TryTwice;

impl Behavior<Double> for TryTwice {
    async fn handle(&self, request: Double, ctx: Context, next: Next<'_, Double>) -> anyhow::Result<u32> {
        match next.run(request.clone(), ctx.clone()).await {
            Ok(response) => Ok(response),
            Err(_) => next.run(Double { number: 50 }, ctx).await,
        }
    }
}

/// Replaces the response of `GetUser` by something of another type.
struct Confused;

impl OpenBehavior for Confused {
    async fn handle(&self, request: AnyRequest, ctx: Context, next: OpenNext<'_>) -> anyhow::Result<AnyResponse> {
        match request.downcast_ref::<Double>() {
            Some(Double { number: 1 }) => Ok(AnyResponse::new(100_u32)),
            Some(Double { number: 2 }) => Ok(AnyResponse::new("no number")),
            _ => next.run(request, ctx).await,
        }
    }
}

struct Processors;

impl PreProcessor<Double> for Processors {
    async fn process(&self, request: &Double, _: &Context) -> anyhow::Result<()> {
        anyhow::ensure!(request.number < 1_000, "{} is too large", request.number);
        Ok(())
    }
}

impl PostProcessor<Double> for Processors {
    async fn process(&self, request: &Double, response: &mut u32, _: &Context) -> anyhow::Result<()> {
        *response += request.number;
        Ok(())
    }
}

impl ErrorHandler<Double> for Processors {
    async fn recover(&self, _: &Double, error: anyhow::Error, _: &Context) -> anyhow::Result<u32> {
        if error.to_string() == "nothing to double" { Ok(7) } else { Err(error) }
    }
}

impl ErrorAction<Double> for Processors {
    async fn act(&self, request: &Double, error: &anyhow::Error, ctx: &Context) {
        ctx.service::<Notebook>().unwrap().write(format!("{}: {error}", request.number));
    }
}

const INSIDE: [&str; 5] = ["inner>", "request's own>", "handler", "<request's own", "<inner"];

#[tokio::test]
async fn behaviors_run_in_the_order_in_which_they_were_added_for_sent_and_for_appended_requests() {
    let app = start(|setup| {
        setup.behavior(Open("outer")).behavior_for::<Double>(Typed("inner")).behavior_for::<GetUser>(Typed("other"))
    })
    .await;
    let App { orchestrator, mediator, notebook, .. } = &app;
    assert_eq!(mediator.send(Double { number: 4 }).await.unwrap(), 8);
    let sent = notebook.lines();
    assert_eq!(sent[0], "outer> double {\"number\":4}");
    assert_eq!(sent[1..6], INSIDE);
    assert_eq!(sent[6..], ["<outer"]);

    let id = orchestrator.append(Double { number: 5 }).await.unwrap().id();
    assert_eq!(orchestrator.wait::<u32>(id).await.unwrap(), Outcome::Completed(10));
    let durable = &notebook.lines()[7..];
    assert_eq!(durable[0], "outer> durable double {\"number\":5}");
    assert_eq!(durable[1..6], INSIDE);
}

#[tokio::test]
async fn an_open_behavior_added_later_is_inside() {
    let app = start(|setup| setup.behavior_for::<Double>(Typed("typed")).behavior(Open("open"))).await;
    let App { mediator, notebook, .. } = &app;
    mediator.send(Double { number: 1 }).await.unwrap();
    let lines = notebook.lines();
    assert_eq!((&*lines[0], &*lines[1]), ("typed>", "open> double {\"number\":1}"));
}

#[tokio::test]
async fn a_behavior_may_run_what_is_inside_again() {
    let app = start(|setup| setup.behavior_for::<Double>(TryTwice)).await;
    let App { mediator, .. } = &app;
    assert_eq!(mediator.send(Double { number: 0 }).await.unwrap(), 100);
}

#[tokio::test]
async fn an_open_behavior_may_answer_by_itself_with_the_right_type() {
    let app = start(|setup| setup.behavior(Confused)).await;
    let App { mediator, .. } = &app;
    assert_eq!(mediator.send(Double { number: 1 }).await.unwrap(), 100);
    assert_eq!(mediator.send(Double { number: 3 }).await.unwrap(), 6);
    let error = mediator.send(Double { number: 2 }).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::WrongType { what: "response", .. })), "{error}");
}

#[tokio::test]
async fn processors_and_error_handlers_are_behaviors() {
    let app = start(|setup| {
        setup
            .behavior_for::<Double>(Recover(Processors))
            .behavior_for::<Double>(OnError(Processors))
            .behavior_for::<Double>(Before(Processors))
            .behavior_for::<Double>(After(Processors))
    })
    .await;
    let App { mediator, notebook, orchestrator, .. } = &app;
    assert_eq!(mediator.send(Double { number: 3 }).await.unwrap(), 9);
    assert_eq!(mediator.send(Double { number: 0 }).await.unwrap(), 7);
    let error = mediator.send(Double { number: 1_000 }).await.unwrap_err();
    assert_eq!(error.to_string(), "1000 is too large");
    let errors: Vec<_> = notebook.lines().into_iter().filter(|line| line.contains(':')).collect();
    assert_eq!(errors, ["0: nothing to double", "1000: 1000 is too large"]);

    let id = orchestrator.append(Double { number: 1_000 }).await.unwrap().id();
    assert_eq!(orchestrator.wait::<u32>(id).await.unwrap(), Outcome::Failed("1000 is too large".to_owned()));
}

#[tokio::test]
async fn behaviors_take_services_like_handlers() {
    let notebook = Arc::new(Notebook::default());
    let shared = Arc::clone(&notebook);
    let app = start(move |setup| {
        struct Count(Arc<Notebook>);
        impl OpenBehavior for Count {
            async fn handle(
                &self,
                request: AnyRequest,
                ctx: Context,
                next: OpenNext<'_>,
            ) -> anyhow::Result<AnyResponse> {
                self.0.write(request.name());
                next.run(request, ctx).await
            }
        }
        setup.behavior(Count(shared))
    })
    .await;
    let App { mediator, .. } = &app;
    mediator.send(GetUser { id: 1 }).await.unwrap();
    assert_eq!(notebook.lines(), ["get_user"]);
}
