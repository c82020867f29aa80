//! Many stacks of the same layers in one pass: where two begin alike, what they begin with is computed once.

use std::collections::HashMap;

/// Stacks as a trie. A node is a layer with everything below it; the root, node 0, is the embedding.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Place of the layer; that of the root means nothing.
    place: usize,
    parent: usize,
    children: Vec<usize>,
    /// Walks through all layers that come first: a layer that stands on a later one waits for the next walk.
    walk: usize,
    /// Stacks that end here.
    ending: Vec<usize>,
}

impl Trie {
    /// Of `stacks`, each the places of its layers from the embedding up.
    #[must_use]
    pub fn new<S: AsRef<[usize]>>(stacks: &[S]) -> Self {
        let mut nodes = vec![Node::default()];
        let mut known: HashMap<(usize, usize), usize> = HashMap::new();
        for (index, stack) in stacks.iter().enumerate() {
            let mut at = 0;
            for &place in stack.as_ref() {
                at = *known.entry((at, place)).or_insert_with(|| {
                    let below = &nodes[at];
                    let walk = below.walk + usize::from(at != 0 && place < below.place);
                    nodes.push(Node { place, parent: at, walk, ..Node::default() });
                    let child = nodes.len() - 1;
                    nodes[at].children.push(child);
                    child
                });
            }
            nodes[at].ending.push(index);
        }
        Self { nodes }
    }

    /// Layers computed for each token, all stacks together.
    #[must_use]
    pub fn layer_passes(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Nodes, the root among them.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Place of the layer of `node`, if it has one.
    pub(super) fn place(&self, node: usize) -> Option<usize> {
        (node > 0).then(|| self.nodes[node].place)
    }

    /// The node below `node`.
    pub(super) fn parent(&self, node: usize) -> usize {
        self.nodes[node].parent
    }

    /// Nodes that stand on `node`.
    pub(super) fn children(&self, node: usize) -> usize {
        self.nodes[node].children.len()
    }

    /// Stacks that end at `node`.
    pub(super) fn ending(&self, node: usize) -> &[usize] {
        &self.nodes[node].ending
    }

    /// Places of the stack that ends with `node`, from the embedding up.
    pub(super) fn below(&self, node: usize) -> Vec<usize> {
        let mut places: Vec<usize> = std::iter::successors(Some(node), |node| Some(self.nodes[*node].parent))
            .take_while(|node| *node > 0)
            .map(|node| self.nodes[node].place)
            .collect();
        places.reverse();
        places
    }

    /// All nodes but the root, each after its parent, such that few streams wait: one stack after the other.
    pub(super) fn one_by_one(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.layer_passes());
        let mut waiting: Vec<usize> = self.nodes[0].children.iter().rev().copied().collect();
        while let Some(node) = waiting.pop() {
            order.push(node);
            waiting.extend(self.nodes[node].children.iter().rev());
        }
        order
    }

    /// The same such that each walk through the layers serves all stacks: walk, place, nodes there.
    pub(super) fn layer_by_layer(&self) -> Vec<(usize, usize, Vec<usize>)> {
        let mut order: Vec<usize> = (1..self.nodes.len()).collect();
        order.sort_by_key(|node| (self.nodes[*node].walk, self.nodes[*node].place));
        let mut groups: Vec<(usize, usize, Vec<usize>)> = Vec::new();
        for node in order {
            let Node { walk, place, .. } = self.nodes[node];
            match groups.last_mut() {
                Some((last, at, nodes)) if (*last, *at) == (walk, place) => nodes.push(node),
                _ => groups.push((walk, place, vec![node])),
            }
        }
        groups
    }

    /// Places where stacks end that a walk from the bottom up comes to before the end of the first stack.
    pub(super) fn ends_below_the_first(&self) -> usize {
        let at = |node: &Node| (node.walk, node.place);
        let Some(first) = self.nodes.iter().find(|node| node.ending.contains(&0)) else { return 0 };
        self.nodes.iter().filter(|node| !node.ending.is_empty() && at(node) < at(first)).count()
    }

    /// Streams that are kept at once when nodes are computed in `order`, at most.
    pub(super) fn streams(&self, order: impl IntoIterator<Item = usize>) -> usize {
        let mut waiting: Vec<usize> = self.nodes.iter().map(|node| node.children.len()).collect();
        let (mut kept, mut most) = (1, 1);
        for node in order {
            kept += 1;
            most = most.max(kept);
            kept -= usize::from(waiting[node] == 0);
            let parent = self.nodes[node].parent;
            waiting[parent] -= 1;
            kept -= usize::from(waiting[parent] == 0);
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without(layers: usize, drop: std::ops::Range<usize>) -> Vec<usize> {
        (0..layers).filter(|layer| !drop.contains(layer)).collect()
    }

    #[test]
    fn leaving_one_out_costs_half_the_square() {
        for layers in 1..20 {
            let mut stacks: Vec<_> = (0..layers).map(|l| without(layers, l..l + 1)).collect();
            stacks.push(without(layers, 0..0));
            let trie = Trie::new(&stacks);
            assert_eq!(trie.layer_passes(), layers * (layers + 1) / 2);
            assert!(trie.streams(trie.one_by_one()) <= layers + 1);
            let groups = trie.layer_by_layer();
            // one walk reads each layer once
            assert!(groups.iter().all(|(walk, ..)| *walk == 0) && groups.len() == layers);
            assert!(trie.streams(groups.into_iter().flat_map(|(.., nodes)| nodes)) <= layers + 2);
        }
    }

    #[test]
    fn a_layer_may_come_again() {
        let trie = Trie::new(&[vec![0, 1, 0, 1], vec![0, 1], vec![], vec![1, 1]]);
        assert_eq!(trie.layer_passes(), 6);
        let walks: Vec<_> =
            trie.layer_by_layer().into_iter().map(|(walk, place, nodes)| (walk, place, nodes.len())).collect();
        assert_eq!(walks, [(0, 0, 1), (0, 1, 3), (1, 0, 1), (1, 1, 1)]);
        assert_eq!(trie.ending(0), [2]);
    }

    proptest! {
        #[test]
        fn every_stack_is_found_again(stacks in prop::collection::vec(prop::collection::vec(0usize..5, 0..6), 0..12)) {
            let trie = Trie::new(&stacks);
            for (stack, places) in stacks.iter().enumerate() {
                let ends: Vec<usize> = (0..trie.len()).filter(|node| trie.ending(*node).contains(&stack)).collect();
                prop_assert_eq!(ends.len(), 1);
                prop_assert_eq!(&trie.below(ends[0]), places);
            }
            let groups = trie.layer_by_layer();
            for order in [trie.one_by_one(), groups.into_iter().flat_map(|(.., nodes)| nodes).collect()] {
                prop_assert_eq!(order.len(), trie.layer_passes());
                let mut done = vec![false; trie.len()];
                done[0] = true;
                for node in order {
                    prop_assert!(done[trie.parent(node)] && !done[node]);
                    done[node] = true;
                }
            }
        }
    }
}
