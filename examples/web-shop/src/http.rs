//! The shop's HTTP interface.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use orchestratum_mediator::Orchestrator;
use sea_orm::{ActiveModelTrait, DatabaseConnection, EntityTrait, Set};
use serde::Deserialize;
use uuid::Uuid;

use crate::commands::{EmailCustomer, FulfillOrder};
use crate::tables::{order, product};

#[derive(Clone)]
struct Shop {
    database: DatabaseConnection,
    orchestrator: Orchestrator,
}

pub(crate) fn routes(database: DatabaseConnection, orchestrator: Orchestrator) -> Router {
    Router::new()
        .route("/orders", post(place_order))
        .route("/orders/{id}", get(show_order))
        .with_state(Shop { database, orchestrator })
}

#[derive(Deserialize)]
struct NewOrder {
    product: String,
    quantity: u16,
    email: String,
}

/// Writes the order and its two commands, or, when the order is refused, nothing.
async fn place_order(
    State(shop): State<Shop>,
    Json(NewOrder { product, quantity, email }): Json<NewOrder>,
) -> Result<(StatusCode, Json<order::Model>), Refusal> {
    let (id, quantity) = (Uuid::now_v7(), i32::from(quantity));
    let transaction = shop.orchestrator.begin().await?;
    let received = EmailCustomer { to: email.clone(), text: format!("we have received your order {id}") };
    shop.orchestrator.append(received).within(&transaction).await?;
    shop.orchestrator.append(FulfillOrder { order: id, email: email.clone() }).within(&transaction).await?;
    let stock = product::Entity::find_by_id(&product).one(&transaction).await?;
    let order = order::ActiveModel {
        id: Set(id),
        product: Set(product),
        quantity: Set(quantity),
        email: Set(email),
        state: Set(order::State::Received),
    };
    let order = order.insert(&transaction).await?;
    // Late on purpose: returning drops the transaction, and with it the order and both commands.
    match stock {
        None => return Err(Refusal(StatusCode::NOT_FOUND, format!("we do not sell {}", order.product))),
        Some(product) if product.stock < quantity => {
            return Err(Refusal(StatusCode::CONFLICT, format!("only {} left", product.stock)));
        }
        Some(_) => {}
    }
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Json(order)))
}

async fn show_order(State(shop): State<Shop>, Path(id): Path<Uuid>) -> Result<Json<order::Model>, Refusal> {
    match order::Entity::find_by_id(id).one(&shop.database).await? {
        Some(order) => Ok(Json(order)),
        None => Err(Refusal(StatusCode::NOT_FOUND, format!("there is no order {id}"))),
    }
}

struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}
