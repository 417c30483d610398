//! What the shop does in the background.

use anyhow::Context as _;
use orchestratum_mediator::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ActiveModelTrait, ColumnTrait, EntityTrait, QueryFilter, Set, Unchanged};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::tables::{order, product};

/// Takes the goods out of stock. Its follow-up tells the customer, once that is certain.
#[derive(Serialize, Deserialize, Request)]
#[request(response = order::State, queue = "orders", follow_ups)]
pub(crate) struct FulfillOrder {
    pub(crate) order: Uuid,
    pub(crate) email: String,
}

impl FollowUps for FulfillOrder {
    fn on_success(&self, state: &order::State) -> Commands {
        let news = if *state == order::State::Confirmed { "is on its way" } else { "was too late, we are sold out" };
        Commands::new().then(EmailCustomer { to: self.email.clone(), text: format!("order {} {news}", self.order) })
    }
}

/// Runs at least once, and takes effect exactly once: stock, order, completion and follow-up commit together. If the
/// lease was lost, `complete_in` is an error, and `?` leaves without a commit.
#[handler]
async fn fulfill_order(
    request: FulfillOrder,
    orchestrator: Orchestrator,
    ctx: Context,
) -> anyhow::Result<order::State> {
    let transaction = orchestrator.begin().await?;
    let order = order::Entity::find_by_id(request.order).one(&transaction).await?.context("there is no such order")?;
    let taken = product::Entity::update_many()
        .col_expr(product::Column::Stock, Expr::col(product::Column::Stock).sub(order.quantity))
        .filter(product::Column::Name.eq(order.product))
        .filter(product::Column::Stock.gte(order.quantity))
        .exec(&transaction)
        .await?;
    let state = if taken.rows_affected == 1 { order::State::Confirmed } else { order::State::SoldOut };
    order::ActiveModel { id: Unchanged(order.id), state: Set(state), ..Default::default() }
        .update(&transaction)
        .await?;
    ctx.complete_in(&transaction, state).await?;
    transaction.commit().await?;
    Ok(state)
}

/// The example `quickstart` sends real ones.
#[derive(Serialize, Deserialize, Request)]
#[request(queue = "mail")]
pub(crate) struct EmailCustomer {
    pub(crate) to: String,
    pub(crate) text: String,
}

#[handler]
async fn email_customer(email: EmailCustomer) -> anyhow::Result<()> {
    println!("e-mail to {}: {}", email.to, email.text);
    Ok(())
}
