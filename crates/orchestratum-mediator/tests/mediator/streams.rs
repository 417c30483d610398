//! Requests that are answered by a stream.

use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use orchestratum_mediator::prelude::*;

use crate::app::{App, Greeter, start};

#[derive(StreamRequest)]
#[request(item = u32)]
struct CountTo {
    last: u32,
}

#[stream_handler]
fn count_to(request: CountTo) -> impl Stream<Item = anyhow::Result<u32>> {
    stream::iter(1..=request.last).map(|number| {
        anyhow::ensure!(number != 5, "five is missing");
        Ok(number)
    })
}

#[derive(StreamRequest)]
#[request(name = "greetings", item = String)]
struct Greetings {
    names: Vec<&'static str>,
}

#[derive(FromServices)]
struct GreetAll {
    greeter: Arc<dyn Greeter>,
}

#[stream_handler]
impl StreamHandler<Greetings> for GreetAll {
    fn handle(&self, request: Greetings, _: Context) -> impl Stream<Item = anyhow::Result<String>> + Send + 'static {
        let greeter = Arc::clone(&self.greeter);
        stream::iter(request.names).then(move |name| std::future::ready(Ok(greeter.greet(name))))
    }
}

#[derive(StreamRequest)]
#[request(item = ())]
struct Silence;

#[derive(StreamRequest)]
#[request(item = u64)]
struct Naturals;

#[stream_handler]
fn naturals(_: Naturals, greeter: Service<dyn Greeter>, ctx: Context) -> impl Stream<Item = anyhow::Result<u64>> {
    assert!(greeter.greet("you").ends_with("you") && !ctx.is_canceled());
    stream::iter(0..).map(Ok)
}

#[tokio::test]
async fn a_stream_yields_its_items_and_its_errors() {
    let app = start(|setup| setup).await;
    let App { mediator, .. } = &app;
    let numbers: Vec<u32> = mediator.stream(CountTo { last: 3 }).try_collect().await.unwrap();
    assert_eq!(numbers, [1, 2, 3]);
    let items: Vec<_> = mediator.stream(CountTo { last: 6 }).collect().await;
    assert_eq!(items.len(), 6);
    assert_eq!(items[4].as_ref().unwrap_err().to_string(), "five is missing");
}

#[tokio::test]
async fn a_stream_outlives_the_call_and_ends_when_it_is_dropped() {
    let app = start(|setup| setup).await;
    let App { mediator, .. } = &app;
    let greetings = mediator.stream(Greetings { names: vec!["Ada", "Bob"] });
    let naturals: Vec<u64> = mediator.stream(Naturals).take(3).try_collect().await.unwrap();
    drop(app);
    let greetings: Vec<String> = greetings.try_collect().await.unwrap();
    assert_eq!(greetings, ["good morning, Ada", "good morning, Bob"]);
    assert_eq!(naturals, [0, 1, 2]);
}

#[tokio::test]
async fn a_stream_without_a_handler_is_one_error() {
    let app = start(|setup| setup).await;
    let App { mediator, .. } = &app;
    let items: Vec<_> = mediator.stream(Silence).collect().await;
    assert_eq!(items.len(), 1);
    assert!(items[0].as_ref().unwrap_err().to_string().contains("no handler is linked for request `silence`"));
}
