//! The steps of an order. Each says what follows when it succeeds, fails or is canceled, and the follow-up is appended
//! in the transaction that ends the step: no crash leaves a paid order that nobody ships.

use std::time::Duration;

use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: u32,
    pub(crate) goods: String,
    pub(crate) card: String,
}

/// What a bank gives for a charge, and wants for a refund.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    id: String,
}

fn tell(order: &Order, line: &str) {
    println!("  order {}: {line}", order.number);
}

#[derive(Serialize, Deserialize, Request)]
#[request(queue = "orders", follow_ups)]
pub(crate) struct PlaceOrder {
    pub(crate) order: Order,
}

impl FollowUps for PlaceOrder {
    fn on_success(&self, (): &()) -> Commands {
        Commands::new().then(ChargeCard { order: self.order.clone() })
    }

    fn on_cancel(&self) -> Commands {
        Commands::new().then(TellCustomer::new(&self.order, "your order is canceled"))
    }
}

#[handler]
async fn place_order(request: PlaceOrder) -> anyhow::Result<()> {
    tell(&request.order, &format!("placed, {}", request.order.goods));
    Ok(())
}

/// The receipt is stored as the command's output, and given to `on_success`.
#[derive(Serialize, Deserialize, Request)]
#[request(response = Receipt, retries = 2, queue = "orders", follow_ups)]
pub(crate) struct ChargeCard {
    order: Order,
}

impl FollowUps for ChargeCard {
    fn on_success(&self, receipt: &Receipt) -> Commands {
        Commands::new().then(ShipOrder { order: self.order.clone(), receipt: receipt.clone() })
    }

    fn on_failure(&self) -> Commands {
        Commands::new().then(TellCustomer::new(&self.order, "we could not charge your card"))
    }
}

#[handler]
async fn charge_card(ChargeCard { order }: ChargeCard, ctx: Context) -> anyhow::Result<Receipt> {
    match &*order.card {
        "expired" => {
            tell(&order, "the card has expired");
            // The card will not get younger: no retries.
            Err(Verdict::fail("the card has expired").into())
        }
        "slow bank" if ctx.attempt() == 1 => {
            tell(&order, "the bank does not answer, trying again");
            Err(Verdict::retry_after(Duration::from_millis(50), "the bank does not answer").into())
        }
        card => {
            tell(&order, &format!("{card} charged at attempt {}", ctx.attempt()));
            Ok(Receipt { id: format!("receipt-{}", order.number) })
        }
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(retries = 0, queue = "orders", follow_ups)]
pub(crate) struct ShipOrder {
    order: Order,
    receipt: Receipt,
}

impl ShipOrder {
    fn refund(&self, reason: &str) -> Commands {
        let (order, receipt) = (self.order.clone(), self.receipt.clone());
        Commands::new().then(Refund { order, receipt, reason: reason.to_owned() })
    }
}

impl FollowUps for ShipOrder {
    fn on_success(&self, (): &()) -> Commands {
        Commands::new().then(TellCustomer::new(&self.order, "your order is on its way"))
    }

    fn on_failure(&self) -> Commands {
        self.refund("we cannot ship it")
    }

    fn on_cancel(&self) -> Commands {
        self.refund("you canceled it")
    }
}

#[handler]
async fn ship_order(ShipOrder { order, .. }: ShipOrder, packing: Service<Notify>, ctx: Context) -> anyhow::Result<()> {
    anyhow::ensure!(order.goods != "ice cream", "ice cream melts on the way");
    if order.goods == "piano" {
        packing.notify_one();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(3600)) => {}
            // A handler that does not listen runs to its end, and then the piano is shipped.
            () = ctx.canceled() => {
                tell(&order, "packing stopped");
                anyhow::bail!("stopped")
            }
        }
    }
    tell(&order, "shipped");
    Ok(())
}

#[derive(Serialize, Deserialize, Request)]
#[request(queue = "orders", follow_ups)]
pub(crate) struct Refund {
    order: Order,
    receipt: Receipt,
    reason: String,
}

impl FollowUps for Refund {
    fn on_success(&self, (): &()) -> Commands {
        Commands::new().then(TellCustomer::new(&self.order, &format!("your money is on its way back: {}", self.reason)))
    }
}

#[handler]
async fn refund(Refund { order, receipt, .. }: Refund) -> anyhow::Result<()> {
    tell(&order, &format!("refunded by {}", receipt.id));
    Ok(())
}

#[derive(Serialize, Deserialize, Request)]
#[request(queue = "orders")]
pub(crate) struct TellCustomer {
    order: Order,
    message: String,
}

impl TellCustomer {
    fn new(order: &Order, message: &str) -> Self {
        Self { order: order.clone(), message: message.to_owned() }
    }
}

#[handler]
async fn tell_customer(TellCustomer { order, message }: TellCustomer) -> anyhow::Result<()> {
    tell(&order, &format!("“{message}”"));
    Ok(())
}
