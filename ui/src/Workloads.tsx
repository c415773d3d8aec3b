// Every proxy with its health, certificate and the state of its configuration, in its own words where it refused something.
import { status } from './live';
import type { PortFact } from './messages';
import { ahead, short, stateTone } from './words';

export function Workloads() {
  const found = status.value;
  if (!found) return null;
  const now = Date.now() / 1000;
  return (
    <section class="workloads">
      <h2>Workloads <span class="dim">{found.proxies.length}</span></h2>
      <div class="scroll">
        <table>
          <thead><tr><th>workload</th><th>state</th><th>identity</th><th>certificate</th><th>configuration</th><th>address</th><th>placement</th></tr></thead>
          <tbody>{found.proxies.map((proxy) => (
            <tr key={proxy.proxy + proxy.workload}>
              <td><i class={`dot ${stateTone(proxy.state, proxy.isConnected)}`} /> {short(proxy.workload)} <span class="dim">{proxy.workload.split('/')[0]}</span></td>
              <td>{proxy.state.toLowerCase()}{proxy.lastError && <div class="bad">{proxy.lastError}</div>}</td>
              <td class="mono">{proxy.identity.replace('spiffe://', '')}</td>
              <td>{ahead(proxy.certificateExpiresAt, now)}</td>
              <td>{configuration(proxy.isConnected, proxy.isInSync, proxy.rejections.length)}
                {proxy.rejections.map((each) => <div class="bad" key={each.typeUrl + each.name}>{each.name}: {each.words}</div>)}</td>
              <td class="mono">{places(proxy.address, proxy.ports)}{proxy.isExposed && <div class="warn">exposed</div>}</td>
              <td>{proxy.placement}</td>
            </tr>))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function places(address: string, ports: PortFact[]): string {
  const meshPorts = ports.map((port) => port.meshPort).filter((port) => port > 0);
  return meshPorts.length ? `${address}:${meshPorts.join(', ')}` : address;
}

function configuration(isConnected: boolean, isInSync: boolean, rejected: number) {
  if (rejected) return <span class="bad">rejected {rejected}, last good one serves</span>;
  if (!isConnected) return <span class="warn">absent</span>;
  return isInSync ? <span class="good">live</span> : <span class="warn">being taken</span>;
}
