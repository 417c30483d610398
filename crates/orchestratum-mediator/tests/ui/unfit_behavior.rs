use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

trait Validate {}

struct Validation;

impl<R: Request + Validate> Behavior<R> for Validation {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        next.run(request, ctx).await
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(behaviors(Validation))]
struct Unvalidated;

fn main() {}
