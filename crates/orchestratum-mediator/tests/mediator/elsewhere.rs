//! Handlers in another crate.

// Nothing else here names the crate: without this line its handlers would not be linked.
use handlers_elsewhere as _;
use orchestratum_mediator::prelude::*;

use crate::app::{App, start};

#[tokio::test]
async fn handlers_of_a_linked_crate_register_themselves() {
    let app = start(|setup| setup).await;
    let App { orchestrator, mediator, .. } = &app;
    assert!(mediator.requests().contains(&"elsewhere".to_owned()));
    let id = orchestrator.append(("elsewhere", [("word", "far")].into_iter().collect::<Map>())).await.unwrap().id();
    assert_eq!(orchestrator.wait::<String>(id).await.unwrap(), Outcome::Completed("far".to_owned()));
}

type Map = std::collections::BTreeMap<&'static str, &'static str>;
