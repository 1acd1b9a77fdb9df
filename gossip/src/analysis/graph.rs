//! Facts of a directed graph that need no numbers: its strongly connected components and the greatest
//! common divisor of its cycles.
//!
//! A graph is given by the receivers of each node.

/// The strongly connected components, each ascending, in the order of their smallest member
/// (Tarjan 1972, without recursion).
pub fn components(graph: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        graph,
        order: vec![usize::MAX; graph.len()],
        low: vec![usize::MAX; graph.len()],
        stack: Vec::new(),
        on_stack: vec![false; graph.len()],
        next: 0,
        found: Vec::new(),
    };
    (0..graph.len()).for_each(|root| search.from(root));
    for component in &mut search.found {
        component.sort_unstable();
    }
    search.found.sort_unstable();
    search.found
}

struct Search<'a> {
    graph: &'a [Vec<usize>],
    order: Vec<usize>,
    low: Vec<usize>,
    stack: Vec<usize>,
    on_stack: Vec<bool>,
    next: usize,
    found: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn from(&mut self, root: usize) {
        if self.order[root] != usize::MAX {
            return;
        }
        // Nodes on the way down, with the next receiver to look at.
        let mut path = vec![(root, 0)];
        self.enter(root);
        while let Some((node, at)) = path.last_mut() {
            let node = *node;
            let Some(to) = self.graph[node].get(*at).copied() else {
                path.pop();
                if let Some((above, _)) = path.last() {
                    self.low[*above] = self.low[*above].min(self.low[node]);
                }
                self.leave(node);
                continue;
            };
            *at += 1;
            if self.order[to] == usize::MAX {
                self.enter(to);
                path.push((to, 0));
            } else if self.on_stack[to] {
                self.low[node] = self.low[node].min(self.order[to]);
            }
        }
    }

    fn enter(&mut self, node: usize) {
        (self.order[node], self.low[node]) = (self.next, self.next);
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn leave(&mut self, node: usize) {
        if self.low[node] == self.order[node] {
            let at = self.stack.iter().rposition(|other| *other == node).unwrap_or(0);
            let component = self.stack.split_off(at);
            for member in &component {
                self.on_stack[*member] = false;
            }
            self.found.push(component);
        }
    }
}

/// The greatest common divisor of the lengths of all cycles of a strongly connected graph: 1 means
/// aperiodic, 0 that there is no cycle. Self-loops count if they are listed.
pub fn cycle_period(graph: &[Vec<usize>]) -> usize {
    let levels = levels(graph, 0);
    let mut divisor = 0;
    for (from, to) in graph.iter().enumerate().flat_map(|(from, to)| to.iter().map(move |to| (from, *to))) {
        if let (Some(from), Some(to)) = (levels[from], levels[to]) {
            divisor = gcd(divisor, (from + 1).abs_diff(to));
        }
    }
    divisor
}

/// The largest number of hops between two nodes; `None` when some node cannot reach another.
pub(super) fn diameter(graph: &[Vec<usize>]) -> Option<usize> {
    let farthest = |from| levels(graph, from).into_iter().try_fold(0, |far, level| Some(far.max(level?)));
    (0..graph.len()).try_fold(0, |far, from| Some(far.max(farthest(from)?)))
}

fn levels(graph: &[Vec<usize>], root: usize) -> Vec<Option<usize>> {
    let mut levels = vec![None; graph.len()];
    let mut edge: Vec<usize> = (0..graph.len()).filter(|node| *node == root).collect();
    let mut level = 0;
    while !edge.is_empty() {
        edge.retain(|node| levels[*node].is_none());
        for node in &edge {
            levels[*node] = Some(level);
        }
        edge = edge.iter().flat_map(|node| graph[*node].iter().copied()).collect();
        edge.sort_unstable();
        edge.dedup();
        level += 1;
    }
    levels
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found() {
        // Two cycles joined one way, and a node alone.
        let graph = [vec![1], vec![2], vec![0, 3], vec![4], vec![3], vec![]].to_vec();
        assert_eq!(components(&graph), [vec![0, 1, 2], vec![3, 4], vec![5]]);
        assert_eq!(components(&[]), Vec::<Vec<usize>>::new());
        let long: Vec<Vec<usize>> = (0..100_000).map(|node| vec![(node + 1) % 100_000]).collect();
        assert_eq!(components(&long).len(), 1);
    }

    #[test]
    fn a_directed_ring_is_periodic_until_a_node_keeps_something() {
        let mut ring: Vec<Vec<usize>> = (0..4).map(|node| vec![(node + 1) % 4]).collect();
        assert_eq!((cycle_period(&ring), diameter(&ring)), (4, Some(3)));
        ring[2].push(2);
        assert_eq!(cycle_period(&ring), 1);
        assert_eq!(cycle_period(&[vec![1], vec![]]), 0);
        assert_eq!(diameter(&[vec![1], vec![]]), None);
    }
}
