// A server whose threads die and hand over: Larson and Krishnan, "Memory allocation for long-running server
// applications" (ISMM 1998). Each of THREADS clients has an array of blocks of 8 to 1,000 bytes. A thread replaces
// blocks at random places, so that it frees what its predecessors allocated; then it starts its successor with the same
// array and ends.
#include "tests/bench/suite/suite.h"

namespace {

constexpr int kBlocks = 1000;

struct Client {
  char* blocks[kBlocks];
  uint64_t seed;
  uint64_t freed;
  long generations;
  long replacements;
  pthread_mutex_t mutex;
  pthread_cond_t ended;
};

char* NewBlock(Client* client) {
  const size_t size = suite_between(&client->seed, 8, 1000);
  char* const block = new char[size];
  suite_stamp(block, size);
  return block;
}

void* Serve(void* argument) {
  Client* const client = static_cast<Client*>(argument);
  for (long i = 0; i < client->replacements; i++) {
    char** const place = &client->blocks[suite_below(&client->seed, kBlocks)];
    client->freed += suite_stamped(*place);
    delete[] * place;
    *place = NewBlock(client);
  }
  if (--client->generations > 0) {
    pthread_detach(suite_thread(Serve, client));
  } else {
    pthread_mutex_lock(&client->mutex);
    pthread_cond_signal(&client->ended);
    client->generations = -1;
    pthread_mutex_unlock(&client->mutex);
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const suite_args_t args = suite_args(argc, argv);
  Client* const clients = new Client[args.threads];  // stays: the last threads may still be leaving their mutex
  for (int i = 0; i < args.threads; i++) {
    Client* const client = &clients[i];
    client->seed = 4141 + i;
    client->freed = 0;
    client->generations = suite_scaled(&args, 320 / args.threads);
    client->replacements = 32000;
    pthread_mutex_init(&client->mutex, nullptr);
    pthread_cond_init(&client->ended, nullptr);
    for (char*& block : client->blocks) block = NewBlock(client);
  }
  for (int i = 0; i < args.threads; i++) pthread_detach(suite_thread(Serve, &clients[i]));
  uint64_t freed = 0;
  for (int i = 0; i < args.threads; i++) {
    Client* const client = &clients[i];
    pthread_mutex_lock(&client->mutex);
    while (client->generations != -1) pthread_cond_wait(&client->ended, &client->mutex);
    pthread_mutex_unlock(&client->mutex);
    for (char* block : client->blocks) {
      freed += suite_stamped(block);
      delete[] block;
    }
    freed += client->freed;
  }
  return suite_finish(freed);
}
