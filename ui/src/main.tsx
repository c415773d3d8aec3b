// The dashboard's first page: one picture, what is beside it, and who is there.
import { render } from 'preact';
import { connection, edges, start, status } from './live';
import { Picture } from './Picture';
import { Side } from './Side';
import { perSecond } from './words';
import { Workloads } from './Workloads';
import { Zones } from './Zones';
import './style.css';

const PANICS_SHOWN = 2;

function Top() {
  const plane = status.value?.plane;
  const proxies = status.value?.proxies ?? [];
  const total = edges.value.reduce((sum, edge) => sum + edge.rate.requestsPerSecond, 0);
  const behind = proxies.filter((proxy) => proxy.isConnected && !proxy.isInSync).length;
  const rejected = proxies.filter((proxy) => proxy.rejections.length).length;
  return (
    <header>
      <img src="/icon.svg" alt="" width="26" height="26" /><b>masche</b>
      <span class={`link ${connection.value}`}>{connection.value === 'live' ? 'live' : connection.value === 'lost' ? 'control plane is away; traffic goes on' : 'connecting'}</span>
      {plane && <>
        <span>{plane.trustDomain}</span><span>revision {plane.revision}</span><span>{proxies.length} workloads</span><span>{perSecond(total)}</span>
        {behind > 0 && <span class="warn">{behind} taking the new configuration</span>}
        {rejected > 0 && <span class="bad">{rejected} rejected a configuration</span>}
        {plane.leases.heldBack > 0 && <span class="warn">{plane.leases.heldBack} expired leases held back: {plane.leases.reason}</span>}
        {plane.panics.slice(0, PANICS_SHOWN).map((what) => <span class="bad" key={what}>{what}</span>)}
        {plane.panics.length > PANICS_SHOWN && <span class="bad">and {plane.panics.length - PANICS_SHOWN} more services</span>}
        {plane.waitingFor.map((what) => <span class="warn" key={what}>waits for {what}</span>)}
      </>}
    </header>
  );
}

function Login() {
  return (
    <main class="login">
      <img src="/icon.svg" alt="" width="56" height="56" />
      <h1>Sign in from your terminal</h1>
      <p>Run this on the control plane's machine and open the link that it prints. A link is good once.</p>
      <pre>masche dashboard</pre>
    </main>
  );
}

function App() {
  if (connection.value === 'login') return <Login />;
  return <><Top /><main><div class="left"><div class="stage"><Picture /></div><Zones /><Workloads /></div><Side /></main></>;
}

const place = document.getElementById('app');
if (place) render(<App />, place);
start().catch(() => { connection.value = 'lost'; setTimeout(() => { location.reload(); }, 3000); });
