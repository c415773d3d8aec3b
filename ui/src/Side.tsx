// Beside the picture: what is selected, or the whole mesh.
import { ALL, edgeId, edges, events, graph, selected } from './live';
import type { Edge, Node, NodeWorkload } from './messages';
import { Plots } from './Plot';
import { ahead, clock, millis, perSecond, share, stateTone } from './words';

export function Side() {
  const choice = selected.value;
  const edge = choice?.kind === 'edge' ? edges.value.find((each) => edgeId(each) === choice.id) : undefined;
  const node = choice?.kind === 'node' ? graph.value?.nodes.find((each) => each.id === choice.id) : undefined;
  return (
    <aside>
      {choice && <button class="plain back" onClick={() => { selected.value = null; }}>← whole mesh</button>}
      {edge ? <EdgeFacts edge={edge} /> : node ? <NodeFacts node={node} /> : <Whole />}
    </aside>
  );
}

function Whole() {
  return (
    <>
      <h2>Whole mesh</h2>
      <Plots of={ALL} />
      <h2>What happened</h2>
      <ol class="events">
        {events.value.slice(0, 60).map((event) => (
          <li class={event.severity} key={event.sequence}><time>{clock(event.at)}</time> {event.message}</li>
        ))}
      </ol>
      {!events.value.length && <p class="dim">Nothing yet.</p>}
    </>
  );
}

function EdgeFacts({ edge }: { edge: Edge }) {
  return (
    <>
      <h2>{edge.source} → {edge.destination}:{edge.port}</h2>
      <p class="dim">{edge.protocol}, {edge.isMtls ? 'mutual TLS' : 'not encrypted'}</p>
      <dl>
        <dt>requests</dt><dd>{perSecond(edge.rate.requestsPerSecond)}</dd>
        <dt>success</dt><dd>{share(edge.rate.success)}</dd>
        <dt>p50, p95, p99</dt><dd>{millis(edge.rate.p50Ms)}, {millis(edge.rate.p95Ms)}, {millis(edge.rate.p99Ms)}</dd>
        {edge.deniedPerSecond > 0 && <><dt>denied</dt><dd>{perSecond(edge.deniedPerSecond)}</dd></>}
      </dl>
      <Plots of={edgeId(edge)} />
      {edge.endpoints.length > 0 && (
        <table>
          <thead><tr><th>instance</th><th>req</th><th>success</th><th>p99</th><th>weight</th></tr></thead>
          <tbody>{edge.endpoints.map((each) => (
            <tr key={each.workload} class={each.isEjected ? 'bad' : ''}>
              <td>{short(each.workload)}</td><td>{perSecond(each.rate.requestsPerSecond)}</td><td>{share(each.rate.success)}</td>
              <td>{millis(each.rate.p99Ms)}</td><td>{each.isEjected ? 'ejected' : `${each.weight} %`}</td>
            </tr>))}
          </tbody>
        </table>
      )}
    </>
  );
}

function NodeFacts({ node }: { node: Node }) {
  const into = edges.value.filter((each) => each.destination === node.id);
  const out = edges.value.filter((each) => each.source === node.id);
  return (
    <>
      <h2>{node.id}</h2>
      <p class="dim">{node.kind}{node.ports.length ? `, port ${node.ports.join(', ')}` : ''}</p>
      <Callers title="Called by" list={into} name={(each) => each.source} />
      <Callers title="Calls" list={out} name={(each) => each.destination} />
      <h3>Instances</h3>
      {node.workloads.map((each) => <Instance workload={each} key={each.workload} />)}
      {!node.workloads.length && <p class="dim">None.</p>}
    </>
  );
}

function Callers({ title, list, name }: { title: string; list: Edge[]; name: (edge: Edge) => string }) {
  if (!list.length) return null;
  return (
    <>
      <h3>{title}</h3>
      <ul class="callers">{list.map((edge) => (
        <li key={edgeId(edge)}><button class="plain" onClick={() => { selected.value = { kind: 'edge', id: edgeId(edge) }; }}>{name(edge)}</button>
          <span class="dim">{perSecond(edge.rate.requestsPerSecond)} · {share(edge.rate.success)} · p99 {millis(edge.rate.p99Ms)}</span></li>))}
      </ul>
    </>
  );
}

function Instance({ workload }: { workload: NodeWorkload }) {
  return (
    <div class="instance">
      <b><i class={`dot ${stateTone(workload.state, workload.isConnected)}`} /> {short(workload.workload)}</b> <span class="dim">{workload.state.toLowerCase()}{workload.isConnected ? '' : ', not connected'}</span>
      <div class="dim mono">{workload.identity}</div>
      <div class="dim">certificate for {ahead(workload.certificateExpiresAt, Date.now() / 1000)}, {workload.placement}{workload.zone ? `, zone ${workload.zone}` : ''}</div>
      {workload.isExposed && <div class="warn">listens beyond loopback: it can be reached around the mesh</div>}
      {workload.lastError && <div class="bad">{workload.lastError}</div>}
    </div>
  );
}

export function short(workload: string): string { return workload.split('/').pop() ?? workload; }
