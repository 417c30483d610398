//! Requests in process.

use std::sync::Arc;

use orchestratum_mediator::prelude::*;
use orchestratum_mediator::{Error, Services};
use serde::{Deserialize, Serialize};

use crate::app::{App, Greeter, Notebook, start, start_with};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: u32,
    pub(crate) name: String,
}

#[derive(Debug, Serialize, Deserialize, Request)]
#[request(response = User)]
pub(crate) struct GetUser {
    pub(crate) id: u32,
}

#[handler]
async fn get_user(request: GetUser) -> anyhow::Result<User> {
    anyhow::ensure!(request.id != 0, "there is no user 0");
    Ok(User { id: request.id, name: "Ada".to_owned() })
}

#[derive(Serialize, Deserialize, Request)]
#[request(response = String)]
struct Greet {
    name: String,
}

#[derive(FromServices)]
struct GreetHandler {
    greeter: Arc<dyn Greeter>,
    notebook: Arc<Notebook>,
    missing: Option<Arc<Vec<u8>>>,
}

#[handler]
impl Handler<Greet> for GreetHandler {
    async fn handle(&self, request: Greet, ctx: Context) -> anyhow::Result<String> {
        assert!(self.missing.is_none() && ctx.command_id().is_none());
        self.notebook.write("greeted");
        Ok(self.greeter.greet(&request.name))
    }
}

#[derive(Serialize, Deserialize, Request)]
struct WaitForCancel;

#[handler]
async fn wait_for_cancel(_: WaitForCancel, token: CancellationToken, ctx: Context) -> anyhow::Result<()> {
    ctx.canceled().await;
    assert!(token.is_cancelled());
    anyhow::bail!("canceled")
}

#[derive(Serialize, Deserialize, Request)]
struct Forward;

#[handler]
async fn forward(_: Forward, mediator: Mediator) -> anyhow::Result<()> {
    mediator.send(WaitForCancel).await
}

#[derive(Serialize, Deserialize, Request)]
struct Unhandled;

#[derive(Serialize, Deserialize, Request)]
#[request(name = "reports.monthly")]
struct RunsElsewhere;

/// An enum is a request like any other.
#[derive(Serialize, Deserialize, Request)]
#[request(response = u32)]
enum Calculate {
    Sum(u32, u32),
    Nothing,
}

#[handler]
async fn calculate(request: Calculate) -> anyhow::Result<u32> {
    Ok(match request {
        Calculate::Sum(one, other) => one + other,
        Calculate::Nothing => 0,
    })
}

#[tokio::test]
async fn a_sent_request_gets_its_typed_response() {
    let app = start(|setup| setup).await;
    let App { mediator, notebook, .. } = &app;
    assert_eq!(mediator.send(GetUser { id: 7 }).await.unwrap(), User { id: 7, name: "Ada".to_owned() });
    assert_eq!(mediator.send(Greet { name: "Ada".to_owned() }).await.unwrap(), "good morning, Ada");
    assert_eq!(mediator.send(Calculate::Sum(2, 3)).await.unwrap(), 5);
    assert_eq!(mediator.send(Calculate::Nothing).await.unwrap(), 0);
    assert_eq!(notebook.lines(), ["greeted"]);
    assert_eq!(mediator.send(GetUser { id: 0 }).await.unwrap_err().to_string(), "there is no user 0");
}

/// Handlers may come from another macro, under conditions, and with further attributes.
macro_rules! echo {
    ($name:ident, $request:ident, $text:ty) => {
        #[derive(Serialize, Deserialize, Request)]
        #[request(response = $text)]
        struct $request($text);

        #[handler]
        #[cfg(all())]
        #[allow(clippy::unused_async, reason = "an attribute below")]
        async fn $name($request(text): $request, _: Service<Notebook>, _: Context) -> anyhow::Result<$text> {
            Ok(text)
        }

        #[handler]
        #[cfg(any())]
        async fn $name(_: Nonsense) -> anyhow::Result<()> {}
    };
}

echo!(echo, EchoCommand, String);

#[tokio::test]
async fn a_handler_may_come_from_a_macro() {
    let app = start(|setup| setup).await;
    assert_eq!(app.mediator.send(EchoCommand("text".to_owned())).await.unwrap(), "text");
    assert!(app.mediator.requests().contains(&"echo".to_owned()));
}

#[tokio::test]
async fn a_handler_function_stays_callable() {
    assert_eq!(get_user(GetUser { id: 1 }).await.unwrap().id, 1);
    let ctx = Context::in_process(Arc::new(Services::default()), CancellationToken::new());
    ctx.cancellation_token().cancel();
    wait_for_cancel(WaitForCancel, ctx.cancellation_token().clone(), ctx).await.unwrap_err();
}

#[tokio::test]
async fn the_token_of_a_send_reaches_handlers_also_through_handlers() {
    let app = start(|setup| setup).await;
    let App { mediator, .. } = &app;
    let token = CancellationToken::new();
    token.cancel();
    let error = mediator.send_with(Forward, token).await.unwrap_err();
    assert_eq!(error.to_string(), "canceled");
}

#[tokio::test]
async fn a_request_without_a_handler_is_refused_with_what_is_served_and_the_way_out() {
    let app = start(|setup| setup).await;
    let App { mediator, orchestrator, .. } = &app;
    let error = mediator.send(Unhandled).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::NoHandler { request, .. }) if request == "unhandled"));
    let text = error.to_string();
    assert!(text.starts_with("no handler is linked for request `unhandled`; this program serves: "), "{text}");
    assert!(text.contains("get_user, ") && text.ends_with("add `use that_crate as _;`"), "{text}");

    let text = orchestrator.append(Unhandled).await.unwrap_err().to_string();
    assert!(text.contains("no executor is registered for key `unhandled`") && text.contains("get_user"), "{text}");
}

#[tokio::test]
async fn a_remote_request_may_be_appended_and_not_sent() {
    let app = start_with(|builder| builder.remote_request::<RunsElsewhere>().mediator()).await;
    let id = app.orchestrator.append(RunsElsewhere).await.unwrap().id();
    assert_eq!(app.orchestrator.get(id).await.unwrap().unwrap().key, "reports.monthly");
    let error = app.mediator.send(RunsElsewhere).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::Remote { .. })), "{error}");
}

#[tokio::test]
async fn without_a_mediator_in_the_builder_a_send_says_so() {
    let app = start_with(|builder| builder).await;
    let error = app.mediator.send(GetUser { id: 1 }).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::NoMediator { .. })), "{error}");
}
