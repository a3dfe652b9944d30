// A small web server: GET / says hello, GET /health says ok. It ends cleanly on SIGINT and SIGTERM.
const http = require('http');

const port = Number(process.env.PORT || 3000);
const instance = process.env.NODE_APP_INSTANCE || '0';

const server = http.createServer((request, response) => {
  const health = request.url === '/health';
  response.writeHead(200, { 'content-type': 'text/plain' });
  response.end(health ? 'ok\n' : `hello from instance ${instance}, process ${process.pid}\n`);
});

server.listen(port, '127.0.0.1', () => {
  console.log(`listening on 127.0.0.1:${server.address().port}`);
  if (process.send) process.send('ready');
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    console.log(`${signal}: closing`);
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
