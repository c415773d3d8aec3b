// Orders: reserves goods and takes payment. Node, no packages: what a service in another language looks like.
import http from 'node:http';

const name = process.env.REPLICA ?? 'orders';
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });
const passedOn = ['traceparent', 'tracestate', 'x-request-id'];

function call(service, method, path, body, headers) {
  const base = process.env[`${service.toUpperCase()}_URL`] ?? `http://${service}`;
  const payload = JSON.stringify(body);
  return new Promise((resolve) => {
    const request = http.request(new URL(path, base), {
      method, agent, timeout: 10_000,
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload), ...headers },
    }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode, body: decode(Buffer.concat(parts)) }));
    });
    request.on('timeout', () => request.destroy(new Error('timed out')));
    request.on('error', (error) => resolve({ status: 502, body: { error: `${service}: ${error.message}` } }));
    request.end(payload);
  });
}

function decode(bytes) {
  try { return JSON.parse(bytes); } catch { return { error: bytes.toString() }; }
}

async function placeOrder(order, headers) {
  const reserved = await call('inventory', 'POST', '/reserve', { item: order.item ?? 'tea', count: 1 }, headers);
  if (reserved.status !== 200) return [reserved.status, { step: 'inventory', ...reserved.body }];
  const paid = await call('payment', 'POST', '/charge', { amount: order.amount ?? 5 }, headers);
  if (paid.status !== 200) return [paid.status, { step: 'payment', ...paid.body }];
  return [200, { order: paid.body.receipt.slice(0, 8), payment: paid.body.version, inventory: reserved.body.replica, by: name }];
}

const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    const headers = Object.fromEntries(passedOn.filter((h) => request.headers[h]).map((h) => [h, request.headers[h]]));
    let [status, body] = [404, { error: `no ${request.method} ${request.url}` }];
    if (request.method === 'POST' && request.url === '/orders') [status, body] = await placeOrder(decode(Buffer.concat(parts)), headers);
    else if (request.url === '/healthz') [status, body] = [200, { ok: true }];
    response.writeHead(status, { 'content-type': 'application/json', 'x-served-by': name });
    response.end(JSON.stringify(body));
  });
});
server.keepAliveTimeout = 600_000;
server.listen(Number(process.env.PORT ?? 8080), process.env.HOST ?? '127.0.0.1');
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });
}
