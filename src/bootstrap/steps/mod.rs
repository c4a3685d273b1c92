//! The steps, in order.

mod ahead;
mod cluster;
mod handover;
mod lost;
mod management;
mod newborn;
mod prepare;
mod reconnect;
mod release;
mod replaced;

use super::Story;
use crate::saga::Step;

/// The story of `apply`: the chart on a cluster that exists.
pub fn application() -> Vec<Box<dyn Step<Story>>> {
    vec![
        Box::new(prepare::Preflight),
        Box::new(release::Source),
        Box::new(release::Flux),
        Box::new(release::Environment),
        Box::new(release::Release),
        Box::new(release::Components),
    ]
}

/// The whole story.
pub fn steps() -> Vec<Box<dyn Step<Story>>> {
    vec![
        Box::new(prepare::Preflight),
        Box::new(prepare::Unpack),
        Box::new(cluster::BootstrapCluster),
        Box::new(release::Source),
        Box::new(release::Flux),
        Box::new(release::Environment),
        Box::new(release::Release),
        Box::new(management::ManagementCluster),
        Box::new(management::ManagementFlux),
        Box::new(handover::Move),
        Box::new(handover::SelfManagement),
        Box::new(cluster::Teardown),
    ]
}
