//! Code around handlers.

use orchestratum_mediator::prelude::*;

use crate::users::{CreateUser, GetUser, User};

/// Around every request, whether it is sent or runs durably.
pub(crate) struct Logging;

impl OpenBehavior for Logging {
    async fn handle(&self, request: AnyRequest, ctx: Context, next: OpenNext<'_>) -> anyhow::Result<AnyResponse> {
        let name = request.name().into_owned();
        let way = if ctx.command_id().is_some() { "runs durably" } else { "is sent" };
        println!("  > {name} {way}");
        let result = next.run(request, ctx).await;
        match &result {
            Ok(_) => println!("  < {name}"),
            Err(error) => println!("  < {name} failed: {error:#}"),
        }
        result
    }
}

pub(crate) trait Validate {
    fn validate(&self) -> anyhow::Result<()>;
}

impl Validate for CreateUser {
    fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.name.trim().is_empty(), "a user needs a name");
        Ok(())
    }
}

/// Around requests that can be validated: for those that cannot, adding it does not compile.
pub(crate) struct Validation;

impl<R: Request + Validate> Behavior<R> for Validation {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        request.validate()?;
        next.run(request, ctx).await
    }
}

/// Stands in for users that are not there. `Recover(Guest)` makes a behavior of it.
pub(crate) struct Guest;

impl ErrorHandler<GetUser> for Guest {
    async fn recover(&self, _: &GetUser, _: anyhow::Error, _: &Context) -> anyhow::Result<User> {
        Ok(User { name: "a guest".to_owned() })
    }
}
