//! The worker: data loaders, the training engine, the session machine and durable client state.
pub mod data;
pub mod engine;
