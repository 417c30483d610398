//! Generic requests.

use std::marker::PhantomData;
use std::sync::Arc;

use orchestratum_mediator::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::app::{App, Notebook, start};

trait Template: Named + Serialize + DeserializeOwned + Send + Sync + 'static {
    fn text(&self) -> String;
}

#[derive(Serialize, Deserialize, Named)]
struct Welcome;

impl Template for Welcome {
    fn text(&self) -> String {
        "welcome!".to_owned()
    }
}

#[derive(Serialize, Deserialize, Named)]
struct Invoice {
    cents: u32,
}

impl Template for Invoice {
    fn text(&self) -> String {
        format!("you owe {} cents", self.cents)
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(name = "mail", response = String, queue = "mail")]
struct SendEmailCommand<T> {
    template: T,
}

#[handler(SendEmailCommand<Welcome>, SendEmailCommand<Invoice>)]
async fn send<T: Template>(command: SendEmailCommand<T>, notebook: Service<Notebook>) -> anyhow::Result<String> {
    notebook.write(T::name());
    Ok(command.template.text())
}

/// Only the type differs; the bounds stand on the type itself.
#[derive(Serialize, Deserialize, Request)]
#[serde(bound = "")]
#[request(response = String)]
struct Render<T: Template> {
    payload: String,
    template: PhantomData<T>,
}

#[derive(FromServices)]
struct Renderer<T: Send + Sync + 'static> {
    notebook: Arc<Notebook>,
    template: Unused<T>,
}

/// A part of a handler that is made from no service.
struct Unused<T>(PhantomData<fn() -> T>);

impl<T: 'static> FromServices for Unused<T> {
    fn from_services(_: &orchestratum_mediator::Services, _: &str) -> orchestratum_core::Result<Self> {
        Ok(Self(PhantomData))
    }
}

#[handler(Render<Welcome>, Render<Invoice>)]
impl<T: Template> Handler<Render<T>> for Renderer<T> {
    async fn handle(&self, request: Render<T>, _: Context) -> anyhow::Result<String> {
        let _ = &self.template;
        self.notebook.write(Render::<T>::name());
        Ok(serde_json_text::<T>(&request.payload)?.text())
    }
}

fn serde_json_text<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    orchestratum_core::decode(text)
}

#[tokio::test]
async fn each_instance_of_a_generic_request_has_its_own_name_and_handler() {
    let app = start(|setup| setup).await;
    let App { orchestrator, mediator, notebook, .. } = &app;
    assert_eq!(SendEmailCommand::<Welcome>::name(), "mail<welcome>");
    let welcome = orchestrator.append(SendEmailCommand { template: Welcome }).await.unwrap().id();
    let invoice = orchestrator.append(SendEmailCommand { template: Invoice { cents: 5 } }).await.unwrap().id();
    assert_eq!(orchestrator.get(welcome).await.unwrap().unwrap().key, "mail<welcome>");
    assert_eq!(orchestrator.get(invoice).await.unwrap().unwrap().key, "mail<invoice>");
    assert_eq!(orchestrator.wait::<String>(welcome).await.unwrap(), Outcome::Completed("welcome!".to_owned()));
    assert_eq!(orchestrator.wait::<String>(invoice).await.unwrap(), Outcome::Completed("you owe 5 cents".to_owned()));
    assert_eq!(mediator.send(SendEmailCommand { template: Invoice { cents: 1 } }).await.unwrap(), "you owe 1 cents");
    let mut lines = notebook.lines();
    lines.sort();
    assert_eq!(lines, ["invoice", "invoice", "welcome"]);
}

#[tokio::test]
async fn a_generic_handler_with_fields_is_made_for_each_listed_request() {
    let app = start(|setup| setup).await;
    let App { mediator, notebook, .. } = &app;
    let request = Render::<Invoice> { payload: r#"{"cents":9}"#.to_owned(), template: PhantomData };
    assert_eq!(mediator.send(request).await.unwrap(), "you owe 9 cents");
    let request = Render::<Welcome> { payload: "null".to_owned(), template: PhantomData };
    assert_eq!(mediator.send(request).await.unwrap(), "welcome!");
    assert_eq!(notebook.lines(), ["render<invoice>", "render<welcome>"]);
}
