//! Prefixes by segment: a tree whose edges are segments.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::leaf::{Entry, Leaf};

/// Leaves by prefix.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// The first one is the root; empty without any prefix.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize>,
    leaf: Option<Leaf>,
    /// The nearest node above that has a leaf.
    above: Option<usize>,
}

impl Prefixes {
    /// The prefixes begin with a slash and do not end with one.
    pub(super) fn new(prefixes: HashMap<String, Vec<Entry>>) -> Self {
        if prefixes.is_empty() {
            return Self::default();
        }
        let mut nodes = vec![Node::default()];
        for (prefix, entries) in prefixes {
            let mut at = 0;
            for segment in prefix.split('/').skip(1) {
                at = match nodes[at].children.get(segment) {
                    Some(&child) => child,
                    None => {
                        let child = nodes.len();
                        nodes[at].children.insert(segment.into(), child);
                        nodes.push(Node::default());
                        child
                    }
                };
            }
            nodes[at].leaf = Some(Leaf::new(entries));
        }
        let mut tree = Self { nodes };
        tree.link();
        tree
    }

    /// Sets `above`, from the root down.
    fn link(&mut self) {
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            let node = &self.nodes[at];
            let above = if node.leaf.is_some() { Some(at) } else { node.above };
            let children: Vec<usize> = node.children.values().copied().collect();
            for &child in &children {
                self.nodes[child].above = above;
            }
            open.extend(children);
        }
    }

    /// Visits the leaves of the prefixes of a path, the longest first.
    pub(super) fn leaves<'a, B>(
        &'a self,
        path: &str,
        visit: &mut impl FnMut(&'a Leaf) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(mut node) = self.nodes.first() else {
            return ControlFlow::Continue(());
        };
        if let Some(path) = path.strip_prefix('/') {
            for segment in path.split('/') {
                match node.children.get(segment) {
                    Some(&child) => node = &self.nodes[child],
                    None => break,
                }
            }
        }
        loop {
            if let Some(leaf) = &node.leaf {
                visit(leaf)?;
            }
            match node.above {
                Some(above) => node = &self.nodes[above],
                None => return ControlFlow::Continue(()),
            }
        }
    }
}
