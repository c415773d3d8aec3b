// Node: fetch through the service's URL; its proxy variables are for those who ask, so http.request takes them by hand.
import { Agent, request } from "node:http";

const [way] = process.argv.slice(2);
const base = way === "url" ? process.env.WEB_URL : "http://web";
const upload = "m".repeat(1_000_000), pieces = Array(300).fill("c".repeat(1_000)), size = 1_000_000;
const agent = new Agent({ keepAlive: true, maxSockets: 1 });
let sockets = 0;

async function* stream() {
  for (const piece of pieces) yield Buffer.from(piece);
}

const viaFetch = async (method, path, body) => {
  const response = await fetch(base + path, { method, body, ...(body?.[Symbol.asyncIterator] ? { duplex: "half" } : {}) });
  return Buffer.from(await response.arrayBuffer());
};

const proxy = way === "url" ? undefined : new URL(process.env.HTTP_PROXY);
const tunnel = () =>
  new Promise((resolve, reject) =>
    request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path: "web:80" })
      .on("connect", (answer, socket) => (answer.statusCode === 200 ? resolve(socket) : reject(new Error(answer.statusCode))))
      .on("error", reject)
      .end(),
  );
const tunnelled = way === "connect" ? await tunnel() : undefined;

const viaRequest = (method, path, body) =>
  new Promise((resolve, reject) => {
    const place = tunnelled
      ? { createConnection: () => tunnelled, path, headers: { host: "web" } }
      : { host: proxy.hostname, port: proxy.port, agent, path: base + path, headers: { host: "web" } };
    if (typeof body === "string") place.headers["content-length"] = body.length;
    if (tunnelled) Object.assign(place, { agent: tunnelAgent });
    const sent = request({ method, ...place }, async (response) => {
      const parts = [];
      for await (const part of response) parts.push(part);
      resolve(Buffer.concat(parts));
    });
    sent.on("socket", (socket) => (seen.add(socket.localPort)));
    sent.on("error", reject);
    (async () => {
      if (typeof body === "string") sent.write(body);
      else if (body) for await (const piece of body) sent.write(piece);
      sent.end();
    })();
  });
const seen = new Set();
const tunnelAgent = new Agent({ keepAlive: true, maxSockets: 1 });
tunnelAgent.createConnection = () => tunnelled;

const call = way === "url" ? viaFetch : viaRequest;
const told = {
  way,
  get: JSON.parse(await call("GET", "/a/b?c=d")),
  upload: JSON.parse(await call("POST", "/", upload)),
  chunked: JSON.parse(await call("PUT", "/", stream())),
  download: (await call("GET", `/bytes/${size}`)).length,
};
console.log(JSON.stringify({ ...told, reused: way === "url" ? null : seen.size === 1 }));
process.exit(0);
