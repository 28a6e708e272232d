//! An administrator's order to one node, given at any other (B15, B16): the one way all of them travel.
//!
//! Whoever is asked finds the node that the order is for in the tree and asks it over a control connection, which ends with the answer;
//! nobody stands between them, so there is nothing to route and no loop to fear. The order names its node, since an address may belong
//! to another one by now. A new order is a variant of [`Order`], an arm of [`carry_out`] and, if it tells more than that it is done, a
//! variant of [`OrderReply`].
//!
//! Orders are idempotent: one whose answer was lost may be given again, and the errors say so.

use crate::core::Core;
use crate::error::SteerError;
use crate::explain::Explained;
use crate::message::{Call, Empty, PeerAtBytes, Reason, Reject, Reply};
use crate::peer::client::CallError;
use crate::tree_handle::{Input, PeerAt, Wish};
use eaves_tree::{Address, NodeId, Peer};
use prost::{Message, Oneof};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long one node may take to carry out an order, or to say that it has begun.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_secs(3);

/// An [`Order`] on its way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderCall {
    /// The id of the node that must carry it out.
    #[prost(uint64, tag = "1")]
    pub to: u64,
    #[prost(oneof = "Order", tags = "2, 3, 4, 5, 6, 7")]
    pub order: Option<Order>,
}

/// What one node is ordered to do or to tell.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Order {
    /// Kick a listener that is registered with this node (S12).
    #[prost(message, tag = "2")]
    Kick(KickOrder),
    /// Take this list of upstream servers instead of the present one (S14).
    #[prost(message, tag = "3")]
    SetUpstreams(UpstreamsOrder),
    /// Tell how it came to its upstream (B15).
    #[prost(message, tag = "4")]
    Explain(Empty),
    /// Use this upstream whenever it can be used, or no particular one (B16).
    #[prost(message, tag = "5")]
    Pin(PinOrder),
    /// Never register with these, or again (B16).
    #[prost(message, tag = "6")]
    Avoid(AvoidOrder),
    /// Hand the listeners over and take none, or take them again (B16).
    #[prost(message, tag = "7")]
    Drain(DrainOrder),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct KickOrder {
    #[prost(uint64, tag = "1")]
    pub listener: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpstreamsOrder {
    /// `host:port` each.
    #[prost(string, repeated, tag = "1")]
    pub upstreams: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PinOrder {
    #[prost(message, optional, tag = "1")]
    pub upstream: Option<PeerAtBytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AvoidOrder {
    #[prost(uint64, repeated, tag = "1")]
    pub nodes: Vec<u64>,
    #[prost(bool, tag = "2")]
    pub on: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct DrainOrder {
    #[prost(bool, tag = "1")]
    pub on: bool,
}

/// The answer of the node that carried the order out.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OrderDone {
    #[prost(oneof = "OrderReply", tags = "1, 2, 3, 4")]
    pub reply: Option<OrderReply>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum OrderReply {
    #[prost(message, tag = "1")]
    Done(Empty),
    /// Nothing was to be done: it is so already, or no longer so.
    #[prost(message, tag = "2")]
    Nothing(Empty),
    #[prost(message, boxed, tag = "3")]
    Explained(Box<Explained>),
    /// How many listeners are still registered.
    #[prost(uint32, tag = "4")]
    Registered(u32),
}

/// Has `to` carry out `order`; `to` may be this node.
pub(crate) async fn give(
    core: &Arc<Core>,
    to: &PeerAt,
    order: Order,
) -> Result<OrderReply, SteerError> {
    if to.id == core.node_id {
        return carry_out(core, order).await;
    }
    let call = Call::Order(OrderCall {
        to: to.id,
        order: Some(order),
    });
    match core.peers.ask_once(&to.address, call, ORDER_TIMEOUT).await {
        Ok(Reply::Ordered(OrderDone { reply: Some(reply) })) => Ok(reply),
        Ok(_) => Err(SteerError::Unreachable(format!(
            "peer {} answered another question: is it of the same version?",
            to.address
        ))),
        Err(error) => Err(steer_error(error)),
    }
}

/// Answers an order that came from a peer.
pub(crate) async fn answer(core: &Arc<Core>, call: OrderCall) -> Reply {
    if call.to != core.node_id {
        let text = format!(
            "this address belongs to node {}, not to {} any more: look at `eaves tree` and try again",
            core.node_id, call.to
        );
        return Reply::Reject(Reject::new(Reason::Invalid, text));
    }
    let Some(order) = call.order else {
        let text = "the order is of a later version: upgrade this node";
        return Reply::Reject(Reject::new(Reason::Invalid, text));
    };
    match carry_out(core, order).await {
        Ok(reply) => Reply::Ordered(OrderDone { reply: Some(reply) }),
        Err(error) => Reply::Reject(error.into()),
    }
}

/// Carries an order out on this node.
async fn carry_out(core: &Arc<Core>, order: Order) -> Result<OrderReply, SteerError> {
    match order {
        Order::Kick(order) => {
            let listener = NodeId(order.listener);
            match tell(core, |answer| Input::Kick { listener, answer }).await? {
                true => Ok(OrderReply::Done(Empty {})),
                false => Ok(OrderReply::Nothing(Empty {})),
            }
        }
        Order::SetUpstreams(order) => wish(core, order.try_into()?).await,
        Order::Explain(_) => {
            let told = tell(core, Input::Explain).await?;
            Ok(OrderReply::Explained(Box::new(told)))
        }
        Order::Pin(order) => wish(core, order.try_into()?).await,
        Order::Avoid(order) => wish(core, order.into()).await,
        Order::Drain(order) => {
            wish(core, Wish::Drain(order.on)).await?;
            let inspection = core.tree.inspect().await.ok_or_else(stopping)?;
            Ok(OrderReply::Registered(inspection.downstreams.len() as u32))
        }
    }
}

// Wishes are kept on disk, where nothing is read that nobody can be reached at.

impl TryFrom<UpstreamsOrder> for Wish {
    type Error = SteerError;

    fn try_from(order: UpstreamsOrder) -> Result<Wish, SteerError> {
        if order.upstreams.iter().any(String::is_empty) {
            let text = "the list has an empty address: give each as host:port";
            return Err(SteerError::Refused(text.into()));
        }
        let upstreams = order.upstreams.iter();
        let upstreams = upstreams.map(|text| Address::from(text.as_str()));
        Ok(Wish::Upstreams(upstreams.collect()))
    }
}

impl TryFrom<PinOrder> for Wish {
    type Error = SteerError;

    fn try_from(order: PinOrder) -> Result<Wish, SteerError> {
        let Some(peer) = order.upstream else {
            return Ok(Wish::Pin(None));
        };
        if peer.address.is_empty() {
            let text = format!("the address of node {} is not known: try again", peer.id);
            return Err(SteerError::Refused(text));
        }
        Ok(Wish::Pin(Some(Peer {
            id: NodeId(peer.id),
            address: Address::from(peer.address.as_str()),
        })))
    }
}

impl From<AvoidOrder> for Wish {
    fn from(order: AvoidOrder) -> Wish {
        Wish::Avoid(order.nodes.into_iter().map(NodeId).collect(), order.on)
    }
}

/// Asks the tree's loop for something that is on disk when it answers.
async fn wish(core: &Core, wish: Wish) -> Result<OrderReply, SteerError> {
    tell(core, |answer| Input::Wish { wish, answer }).await??;
    Ok(OrderReply::Done(Empty {}))
}

async fn tell<T>(
    core: &Core,
    input: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Result<T, SteerError> {
    let (answer, told) = oneshot::channel();
    core.tree.tell(input(answer));
    told.await.map_err(|_| stopping())
}

fn stopping() -> SteerError {
    SteerError::Unreachable("the node is stopping".into())
}

fn steer_error(error: CallError) -> SteerError {
    match error.reason() {
        Some(Reason::Invalid) => SteerError::Refused(error.to_string()),
        _ => SteerError::Unreachable(error.to_string()),
    }
}

impl From<SteerError> for Reject {
    fn from(error: SteerError) -> Reject {
        let reason = match error {
            SteerError::Unknown(_) | SteerError::Refused(_) => Reason::Invalid,
            SteerError::Unreachable(_) => Reason::Stopped,
        };
        Reject::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzzer: it was granted and kept, and the listener's next start refused what it read.
    #[test]
    fn a_pin_to_nowhere_is_refused() {
        let upstream = |address: &str| PinOrder {
            upstream: Some(PeerAtBytes {
                id: 4,
                address: address.into(),
            }),
        };
        assert!(matches!(
            Wish::try_from(upstream("")),
            Err(SteerError::Refused(_))
        ));
        assert!(Wish::try_from(upstream("h:1")).is_ok());
        assert!(Wish::try_from(PinOrder { upstream: None }).is_ok());
    }

    /// The same with a list of upstream servers, which a client of the admin service may send.
    #[test]
    fn a_list_with_an_empty_address_is_refused() {
        let list = |upstreams: &[&str]| UpstreamsOrder {
            upstreams: upstreams.iter().map(|text| text.to_string()).collect(),
        };
        assert!(matches!(
            Wish::try_from(list(&["h:1", ""])),
            Err(SteerError::Refused(_))
        ));
        assert!(Wish::try_from(list(&["h:1", "h:2"])).is_ok());
    }
}
